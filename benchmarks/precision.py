"""Measure what shorter and coarser vectors cost: nDCG@10, bytes and time, by dimensions and precision.

python -m benchmarks.precision FOLDER... [--models nano all-minilm] [--cache FILE] [--speed 200000]

Each folder is a retrieval set in BEIR's layout, see ``mlx_qwen_embeddings.tools.evaluate``. The results replace those of
the same model and set in ``results/precision.json``; the speed over many random vectors goes to
``results/precision_speed.json``. Texts are embedded once, with all dimensions. Shorter and coarser vectors are derived from
these as the engine does it.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.record import RESULTS
from benchmarks.small import minilm
from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.options import Precision
from mlx_qwen_embeddings.precision import quantize, restore, unit_ranges, value_ranges
from mlx_qwen_embeddings.similarity import rescore, top_k, top_k_bits, truncate_dimensions
from mlx_qwen_embeddings.tools.evaluate import RANKS, RetrievalSet, ndcg, read_retrieval

DIMENSIONS = (32, 64, 128, 256, 384)
CANDIDATES = 40
"""Candidates that are rescored."""

ROUNDS = 3
"""Repetitions, of which the fastest counts: other programs can only add time."""

Vectors = NDArray[Any]
Search = Callable[[], NDArray[np.int64]]


class Way(NamedTuple):
    """A way to store and search vectors: its name, the bytes per vector, and the search for all queries."""

    precision: str
    bytes: int
    search: Search


def ways(queries: Vectors, documents: Vectors) -> Iterator[Way]:
    """Yield every way. The queries stay float32 if the stored vectors can be compared with that."""
    width = documents.shape[1]
    fixed, own = unit_ranges(width), value_ranges(documents)

    def plain(precision: Precision) -> Search:
        stored = quantize(documents, precision, fixed)
        return lambda: top_k(queries, stored, RANKS)[1]

    yield Way("float32", 4 * width, plain("float32"))
    yield Way("float16", 2 * width, plain("float16"))
    yield Way("int8", width, plain("int8"))
    restored = restore(quantize(documents, "int8", own), "int8", ranges=own)
    yield Way("int8, own ranges", width, lambda: top_k(queries, restored, RANKS)[1])
    few = quantize(queries, "ubinary")
    bits = quantize(documents, "ubinary")
    yield Way("binary", width // 8, lambda: top_k_bits(few, bits, RANKS)[1])

    def again(precision: Precision) -> Search:
        stored = quantize(documents, precision, fixed)
        return lambda: rescore(queries, top_k_bits(few, bits, CANDIDATES)[1], stored, RANKS, precision=precision)[1]

    yield Way("binary, rescored by the bits", width // 8, again("ubinary"))
    yield Way("binary, rescored by int8", width // 8 + width, again("int8"))
    yield Way("binary, rescored by float32", width // 8 + 4 * width, again("float32"))


def measure(data: RetrievalSet, queries: Vectors, documents: Vectors) -> Iterator[dict[str, Any]]:
    """Yield a row for each number of dimensions and each way."""
    for dimensions in DIMENSIONS:
        if dimensions > documents.shape[1]:
            continue
        short = truncate_dimensions(queries, dimensions), truncate_dimensions(documents, dimensions)
        for way in ways(*short):
            best = min(timed(way.search) for _ in range(ROUNDS))
            yield {
                "dimensions": dimensions,
                "precision": way.precision,
                "bytes": way.bytes,
                "ndcg10": round(quality(data, way.search()), 4),
                "seconds_per_1000_queries": round(best * 1000 / len(queries), 4),
            }


def quality(data: RetrievalSet, found: NDArray[np.int64]) -> float:
    """Return the mean nDCG@10 of the rows found, best first."""
    names = list(data.documents)
    rankings = ([names[row] for row in rows] for rows in found.tolist())
    return float(
        np.mean([ndcg(ranking, data.relevance[query]) for query, ranking in zip(data.queries, rankings, strict=True)])
    )


def speed(number: int, width: int = 384, queries: int = 50) -> dict[str, Any]:
    """Return milliseconds per query over random vectors, for queries together and for a single one."""
    draw = np.random.default_rng(0)
    documents = truncate_dimensions(draw.normal(size=(number, width)).astype(np.float32), width)
    asked = documents[:queries] + draw.normal(scale=0.03, size=(queries, width)).astype(np.float32)
    few, bits = quantize(asked, "ubinary"), quantize(documents, "ubinary")
    found = top_k_bits(few, bits, CANDIDATES)[1]
    cases: dict[str, Callable[[], object]] = {
        "top_k, float32": lambda: top_k(asked, documents),
        "top_k, float32, one": lambda: top_k(asked[0], documents),
        "numpy's product and argpartition": lambda: np.argpartition(asked @ documents.T, -RANKS, axis=1),
        "numpy's product and argpartition, one": lambda: np.argpartition(documents @ asked[0], -RANKS),
        "top_k_bits": lambda: top_k_bits(few, bits, CANDIDATES),
        "top_k_bits, one": lambda: top_k_bits(few[0], bits, CANDIDATES),
        "rescore": lambda: rescore(asked, found, documents),
        "rescore, one": lambda: rescore(asked[0], found[0], documents),
    }
    took = {}
    for name, search in cases.items():
        best = min(timed(search) for _ in range(ROUNDS))
        took[name] = round(best * 1000 / (1 if name.endswith(", one") else queries), 3)
    return {"vectors": number, "dimensions": width, "milliseconds_a_query": took}


def timed(search: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    search()
    return time.perf_counter() - start


def write(path: Path, model: str, name: str, rows: list[dict[str, Any]]) -> None:
    """Write the results into the file."""
    known = json.loads(path.read_text()) if path.is_file() else []
    kept = [one for one in known if (one["model"], one["set"]) != (model, name)]
    found = sorted([*kept, {"model": model, "set": name, "rows": rows}], key=lambda one: (one["model"], one["set"]))
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description="Measure what shorter and coarser vectors cost.")
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="sets in BEIR's layout")
    parser.add_argument("--models", nargs="+", default=["nano", "all-minilm"], help="names, or folders of models")
    parser.add_argument("--cache", type=Path, help="file that keeps vectors, so that another run need not embed")
    parser.add_argument("--speed", type=int, metavar="VECTORS", help="measure speed over so many random vectors too")
    given = parser.parse_args()
    if given.speed:
        (RESULTS / "precision_speed.json").write_text(json.dumps(speed(given.speed), indent=1) + "\n")
    for model in given.models if given.folders else ():
        with EmbeddingEngine(minilm() if model == "all-minilm" else model, cache_path=given.cache) as engine:
            for folder in given.folders:
                data = read_retrieval(folder)
                queries = engine.embed_queries(data.queries.values())
                documents = engine.embed_documents(data.documents.values(), show_progress=True)
                name = folder.name if folder.parent.name != "xquad" else f"xquad-{folder.name}"
                write(RESULTS / "precision.json", model, name, list(measure(data, queries, documents)))


if __name__ == "__main__":
    main()
