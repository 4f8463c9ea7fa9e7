"""A run on a cluster in a process of its own, which says when a part is done: source, folder, address."""

import sys

from mlx_qwen_embeddings.bulk import embed_parquet
from mlx_qwen_embeddings.ray import Placement, RayRunner


class Tells(RayRunner):
    """Prints a line a part."""

    def run(self, job, missing):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        for rows in super().run(job, missing):
            sys.stdout.write(f"part of {rows}\n")
            sys.stdout.flush()
            yield rows


if __name__ == "__main__":
    source, folder, address = sys.argv[1:]
    runner = Tells(address, model="nano", placement=Placement(concurrency=2, num_cpus=1))
    embed_parquet(source, folder, runner=runner, part_rows=50, dimensions=64)
