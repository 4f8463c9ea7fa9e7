"""Checks of the vectors that a loaded model gives."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.errors import EmbeddingFailedError, ModelLoadError, NonFiniteEmbeddingError
from mlx_qwen_embeddings.tools.verify.known import Known
from mlx_qwen_embeddings.tools.verify.report import Check

Vectors = NDArray[np.float32]

PROBES = (
    "",
    "hello world",
    "The capital of China is Beijing.",
    "import numpy as np",  # texts that start so overflow float16 on Qwen3-Embedding-8B
    "def f(x):\n    return x\t** 2",
    "重力是一种使两个物体相互吸引的力。",
    "الجاذبية",
    "naïve café 🙂",
    "Gravity is a force that attracts two bodies towards each other. It gives weight to physical objects.",
)

ROUNDING = {"float32": 1e-5, "bfloat16": 5e-3}
"""How far coordinates of one text may lie apart between two batches: another shape takes another order of adding up."""

_DEFECT = (
    "the model is not at fault: report it with this table, the versions of mlx and mlx-qwen-embeddings, and the machine"
)


def vector_checks(engine: EmbeddingEngine, dtype: str, known: Known | None, tolerance: float) -> Iterator[Check]:
    """Load the model and check its vectors.

    Args:
        engine: Just opened, with a cache.
        dtype: Compute type.
        known: The published model that it is; None when none is known.
        tolerance: Largest difference from a published score.
    """
    try:
        vectors = engine.embed_documents(PROBES)
    except ModelLoadError as error:
        yield Check("loads", ok=False, expected="a whole model", found="it does not load", remedy=str(error))
        return
    except EmbeddingFailedError as error:
        yield _loads(engine, dtype)
        yield _not_finite(engine, error)
        return
    yield _loads(engine, dtype)
    yield Check("finite values", ok=True, expected="no NaN, no infinity", found=f"{len(vectors)} texts, all finite")
    yield _unit_norms(vectors)
    yield _batch(engine, vectors, ROUNDING[dtype])
    yield _cached(engine)
    yield _dimensions(engine, vectors)
    if known is not None:
        yield _scores(engine, known, tolerance)
        # A coordinate moves by less than a score, which adds up all of them.
        yield from _coordinates(engine, known, max(tolerance / 2, known.precision))


def _loads(engine: EmbeddingEngine, dtype: str) -> Check:
    return Check("loads", ok=True, expected="a whole model", found=f"{engine.dimensions} dimensions, {dtype}")


def _not_finite(engine: EmbeddingEngine, error: EmbeddingFailedError) -> Check:
    found = f"{len(error.failures)} of {len(PROBES)} texts failed, first {PROBES[min(error.failures)]!r}"
    remedy = "the weights are broken: download or convert them again; with float16 in its past, from the original"
    if not isinstance(error, NonFiniteEmbeddingError):
        remedy = str(error)
    elif not any(engine.count_tokens([PROBES[place] for place in error.failures])):
        remedy = "a text without any token has no vector: mend the end token, as said above"
    return Check("finite values", ok=False, expected="no NaN, no infinity", found=found, remedy=remedy)


def _unit_norms(vectors: Vectors) -> Check:
    worst = float(np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1).max())
    remedy = "a vector of zeros has no direction: the last norm or the embeddings are zero, download the weights again"
    return _near("unit norms", worst, 1e-5, "length 1", remedy)


def _batch(engine: EmbeddingEngine, together: Vectors, rounding: float) -> Check:
    # Another max_length is another entry of the cache, so these are computed anew; no probe is long enough to be cut.
    other = engine.max_length - 1
    alone = np.concatenate([engine.embed_documents([text], max_length=other) for text in PROBES])
    return _near("batch = single", _apart(alone, together), rounding, "the same vector alone as in a batch", _DEFECT)


def _cached(engine: EmbeddingEngine) -> Check:
    texts = [f"cached or computed? {text}" for text in PROBES]
    computed = engine.embed_documents(texts)
    before = engine.stats().cache_hits
    again = engine.embed_documents(texts)
    hits = engine.stats().cache_hits - before
    ok = hits == len(texts) and np.array_equal(again, computed)
    found = f"{hits} of {len(texts)} from the cache, at most {_apart(again, computed):.1e} apart"
    return Check("cached = computed", ok, "all from the cache, not a bit changed", found, "" if ok else _DEFECT)


def _dimensions(engine: EmbeddingEngine, vectors: Vectors) -> Check:
    half = engine.dimensions // 2
    short = engine.embed_documents(PROBES, dimensions=half)
    norms = np.linalg.norm(vectors[:, :half], axis=1, keepdims=True)
    wanted = vectors[:, :half] / np.maximum(norms, 1e-12)  # zeros are what the check of the norms finds
    shapes = f"{half} dimensions: the first {half}, then normalised"
    return _near("dimensions", _apart(short, wanted), 1e-5, shapes, _DEFECT)


def _scores(engine: EmbeddingEngine, known: Known, tolerance: float) -> Check:
    found = engine.embed_queries(known.queries) @ engine.embed_documents(known.documents).T
    ok = _apart(found, np.array(known.scores)) <= tolerance
    return Check(
        "published scores",
        ok,
        f"{_numbers(np.ravel(known.scores))} ± {tolerance:g}",
        _numbers(found.ravel()),
        "" if ok else _differs(known),
    )


def _coordinates(engine: EmbeddingEngine, known: Known, tolerance: float) -> Iterator[Check]:
    for role, text, first in known.coordinates:
        vector = (engine.embed_queries([text]) if role == "query" else engine.embed_documents([text]))[0, : len(first)]
        ok = _apart(vector, np.array(first)) <= tolerance
        name = f"published {role}"
        expected = f"{text!r}: {_numbers(first)} ± {tolerance:g}"
        yield Check(name, ok, expected, _numbers(vector), "" if ok else _differs(known))


def _differs(known: Known) -> str:
    return f"this is not {known.name} as it was published: mend what fails above, or take the original's files"


def _near(name: str, difference: float, allowed: float, expected: str, remedy: str) -> Check:
    ok = difference <= allowed  # false for NaN
    return Check(name, ok, f"{expected} ± {allowed:g}", f"at most {difference:.1e} off", "" if ok else remedy)


def _apart(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    return float(np.abs(a - b).max())


def _numbers(values: Sequence[float] | NDArray[np.floating]) -> str:
    return " ".join(f"{value:.4f}" for value in values)
