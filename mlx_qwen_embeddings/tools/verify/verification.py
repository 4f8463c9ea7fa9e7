"""Check whether a model is complete and gives the vectors that it should.

The engine repairs what it can and warns. Here that fails, with the remedy.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings.checkpoint.hub import open_folder
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.engine.model import compute_type
from mlx_qwen_embeddings.errors import EmbeddingFailedError, ModelLoadError, NonFiniteEmbeddingError
from mlx_qwen_embeddings.registry import resolve
from mlx_qwen_embeddings.settings import EngineSettings
from mlx_qwen_embeddings.tools.verify.files import file_checks
from mlx_qwen_embeddings.tools.verify.published import PublishedModel, find_card, find_published
from mlx_qwen_embeddings.tools.verify.report import Check, VerifyReport

PROBES = (
    "",
    "hello world",
    "The capital of China is Beijing.",
    "import numpy as np",  # texts that begin with "import" overflow float16 on Qwen3-Embedding-8B
    "def f(x):\n    return x\t** 2",
    "重力是一种使两个物体相互吸引的力。",
    "الجاذبية",
    "naïve café 🙂",
    "Gravity is a force that attracts two bodies towards each other. It gives weight to physical objects.",
)

ROUNDING = {"float32": 1e-5, "bfloat16": 5e-3}
"""Allowed difference between coordinates of one text in two batches, in which sums are added in another order."""

_BUG = "this is a bug: report it with this table, the versions of mlx and mlx-qwen-embeddings, and the machine"


def verify(model: str, *, revision: str | None = None, **settings: Any) -> VerifyReport:
    """Check a model's files, its vectors and, if something is published about it, that it matches.

    The model is loaded by an engine of its own, which is closed at the end.

    Args:
        model: Alias, Hub name or local folder.
        revision: Branch, tag or commit on the Hub; None is the main branch.
        **settings: Further fields of ``EngineSettings``, such as ``dtype``.

    Returns:
        The report. A model that does not load is a failed check.

    Raises:
        UnknownModelError: If the model is not a known name or path.
        MissingExtraError: If MLX has no back end here.
        pydantic.ValidationError: If a setting is invalid.
    """
    wanted = EngineSettings.from_env(**settings | {"model": str(model), "revision": revision, "cache_bytes": 2**26})
    wanted = wanted.model_copy(update={"cache_path": None})  # vectors that an earlier run stored would hide faults
    spec = resolve(wanted.model)
    dtype = compute_type(wanted)
    # It imports MLX, which must come after the choice of a back end.
    from mlx_qwen_embeddings.compute.weights import weight_paths  # noqa: PLC0415 - see above

    try:
        files = open_folder(spec, revision=wanted.revision, offline=wanted.offline, cache_dir=wanted.cache_dir)
        _ = files.family  # raises for an architecture that is not supported
        weights = [] if files.gguf else weight_paths(files)
    except ModelLoadError as error:
        row = Check("loads", ok=False, expected="a complete model", found="it cannot be opened", remedy=str(error))
        return VerifyReport(wanted.model, (row,))
    published = find_published(spec.source, files, weights)
    checks = list(file_checks(files, weights, published, dtype, find_card(spec, files, published)))
    kinds = {tensor.kind for tensor in files.header.tensors.values()} if files.header else set()
    tolerance = published.tolerance(files.config, dtype, kinds) if published else 0.0
    with EmbeddingEngine(settings=wanted) as engine:
        checks += _vector_checks(engine, dtype, published, tolerance)
    return VerifyReport(wanted.model, tuple(checks), published.name if published else None)


def _vector_checks(
    engine: EmbeddingEngine, dtype: str, published: PublishedModel | None, tolerance: float
) -> Iterator[Check]:
    """Load the model with a new engine that has a cache, and check its vectors."""
    try:
        vectors = engine.embed_documents(PROBES)
    except ModelLoadError as error:
        yield Check("loads", ok=False, expected="a complete model", found="it does not load", remedy=str(error))
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
    if published is not None:
        found = engine.embed_queries(published.queries) @ engine.embed_documents(published.documents).T
        yield _matches("published scores", found.ravel(), np.ravel(published.scores), tolerance, published)
        # A coordinate differs by less than a score, which sums over all of them.
        tolerance = max(tolerance / 2, published.precision)
        for role, text, first in published.coordinates:
            vector = (engine.embed_queries if role == "query" else engine.embed_documents)([text])[0, : len(first)]
            yield _matches(f"published {role}", vector, np.array(first), tolerance, published)


def _loads(engine: EmbeddingEngine, dtype: str) -> Check:
    return Check("loads", ok=True, expected="a complete model", found=f"{engine.dimensions} dimensions, {dtype}")


def _not_finite(engine: EmbeddingEngine, error: EmbeddingFailedError) -> Check:
    found = f"{len(error.failures)} of {len(PROBES)} texts failed, first {PROBES[min(error.failures)]!r}"
    remedy = "the weights are broken: download or convert them again; if they were ever float16, from the original"
    if not isinstance(error, NonFiniteEmbeddingError):
        remedy = str(error)
    elif not any(engine.count_tokens([PROBES[place] for place in error.failures])):
        remedy = "a text without any token has no vector: fix the end token, see above"
    return Check("finite values", ok=False, expected="no NaN, no infinity", found=found, remedy=remedy)


def _unit_norms(vectors: NDArray[np.float32]) -> Check:
    worst = float(np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1).max())
    remedy = "a vector of zeros has no direction: the last norm or the embeddings are zero, download the weights again"
    return _near("unit norms", worst, 1e-5, "length 1", remedy)


def _batch(engine: EmbeddingEngine, together: NDArray[np.float32], rounding: float) -> Check:
    # Another max_length is another cache key, so these are computed again. No probe is long enough to be cut.
    other = engine.max_length - 1
    alone = np.concatenate([engine.embed_documents([text], max_length=other) for text in PROBES])
    return _near("batch = single", _difference(alone, together), rounding, "the same vector alone as in a batch", _BUG)


def _cached(engine: EmbeddingEngine) -> Check:
    texts = [f"cached or computed? {text}" for text in PROBES]
    computed = engine.embed_documents(texts)
    before = engine.stats().cache_hits
    again = engine.embed_documents(texts)
    hits = engine.stats().cache_hits - before
    ok = hits == len(texts) and np.array_equal(again, computed)
    found = f"{hits} of {len(texts)} from the cache, at most {_difference(again, computed):.1e} off"
    return Check("cached = computed", ok, "all from the cache, every bit the same", found, "" if ok else _BUG)


def _dimensions(engine: EmbeddingEngine, vectors: NDArray[np.float32]) -> Check:
    half = engine.dimensions // 2
    short = engine.embed_documents(PROBES, dimensions=half)
    norms = np.linalg.norm(vectors[:, :half], axis=1, keepdims=True)
    expected = vectors[:, :half] / np.maximum(norms, 1e-12)  # the check of the norms finds zeros
    return _near(
        "dimensions", _difference(short, expected), 1e-5, f"{half} dimensions: the first {half}, then normalised", _BUG
    )


def _matches(
    name: str,
    found: NDArray[np.floating],
    expected: NDArray[np.floating],
    tolerance: float,
    published: PublishedModel,
) -> Check:
    ok = _difference(found, expected) <= tolerance
    remedy = f"this is not {published.name} as published: fix what fails above, or take the original's files"
    return Check(name, ok, f"{_numbers(expected)} ± {tolerance:g}", _numbers(found), "" if ok else remedy)


def _near(name: str, difference: float, allowed: float, expected: str, remedy: str) -> Check:
    ok = difference <= allowed  # false for NaN
    return Check(name, ok, f"{expected} ± {allowed:g}", f"at most {difference:.1e} off", "" if ok else remedy)


def _difference(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    return float(np.abs(a - b).max())


def _numbers(values: NDArray[np.floating]) -> str:
    return " ".join(f"{value:.4f}" for value in values)
