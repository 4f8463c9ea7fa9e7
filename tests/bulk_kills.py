"""A bulk job in a process of its own, which says when a part is written: source, target, rows a part."""

import sys

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.bulk import embed_file
from mlx_qwen_embeddings.bulk.parts import Parts

write = Parts.write


def write_and_tell(parts, number, vectors):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    write(parts, number, vectors)
    sys.stdout.write(f"part {number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    Parts.write = write_and_tell  # type: ignore[method-assign]
    source, target, rows = sys.argv[1:]
    # Without a cache, every text that is embedded is computed.
    with EmbeddingEngine("nano", cache_bytes=0) as engine:
        report = embed_file(source, target, model=engine, part_rows=int(rows), dimensions=64)
        sys.stdout.write(f"resumed {report.resumed} embedded {engine.stats().texts}\n")
