"""Convert a model, run the result, and report what the conversion costs."""

import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings._files import human_size, move, sync_tree
from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.engine.model import find_files
from mlx_qwen_embeddings.errors import NonFiniteEmbeddingError
from mlx_qwen_embeddings.options import CallOptions
from mlx_qwen_embeddings.settings import EngineSettings
from mlx_qwen_embeddings.tools.convert.packing import DTYPES, ConversionError, Packing, check_one_of, choose_packing
from mlx_qwen_embeddings.tools.evaluate import LABELLED, rank_scores, read_retrieval

SHOWN_CHARACTERS = 60

Measured = tuple[NDArray[np.float32], NDArray[np.float64]]
"""Vectors of the labelled set's documents and queries, shape (texts, d), and each query's nDCG@10."""


@dataclass(frozen=True, slots=True)
class Cost:
    """How a converted model differs from its source on the labelled set.

    Attributes:
        texts: Number of texts.
        mean: Mean cosine between the two vectors of a text.
        worst: Lowest of these cosines.
        worst_text: Text with the lowest cosine.
        source_ndcg: nDCG@10 of the source.
        result_ndcg: nDCG@10 of the result.
        error: Standard error, over the queries, of the difference between the two.
    """

    texts: int
    mean: float
    worst: float
    worst_text: str
    source_ndcg: float
    result_ndcg: float
    error: float


@dataclass(frozen=True, slots=True)
class Conversion:
    """A finished conversion.

    Attributes:
        source: Alias, Hub name or path.
        target: The new folder.
        packing: How matrices are packed; None if they are not.
        dtype: Type of the weights that are not packed.
        source_bytes: Size of the source's weights.
        target_bytes: Size of the new weights.
        unpacked: Number of matrices that could not be packed.
        repacked: Whether the source was packed too, so that its weights were rounded twice.
        cost: Comparison with the source; None if it was not asked for.
    """

    source: str
    target: Path
    packing: Packing | None
    dtype: str
    source_bytes: int
    target_bytes: int
    unpacked: int
    repacked: bool
    cost: Cost | None

    def as_dict(self) -> dict[str, Any]:
        """Return everything in types that JSON has."""
        return asdict(self) | {"target": str(self.target)}

    def sentences(self) -> list[str]:
        """Return the report, one sentence per line."""
        form = f"{self.packing}; the rest {self.dtype}" if self.packing else f"not packed, {self.dtype}"
        sizes = f"{human_size(self.target_bytes)} of weights, {human_size(self.source_bytes)} in the source"
        report = [f"{form}; {sizes}"]
        if self.unpacked and self.packing:
            group = self.packing.group_size
            report.append(f"not packed, because their rows are not a multiple of {group}: {self.unpacked} matrices")
        if self.repacked:
            report.append("the source is packed too, so its weights were rounded twice: convert from plain weights instead")
        if self.cost:
            cost, text = self.cost, self.cost.worst_text
            shown = text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."
            change = f"{cost.result_ndcg - cost.source_ndcg:+.4f}, standard error {cost.error:.4f}"
            report += [
                f"cosine to the source over {cost.texts} texts: mean {cost.mean:.5f}, worst {cost.worst:.5f} ({shown!r})",
                f"nDCG@10: {cost.result_ndcg:.4f}, source {cost.source_ndcg:.4f} ({change})",
            ]
        return report

    def __str__(self) -> str:
        return "\n".join([f"{self.target}:", *(f"  {sentence}" for sentence in self.sentences())])


def convert(
    source: str,
    target: Path,
    *,
    bits: int | None = None,
    group_size: int | None = None,
    mode: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    report: bool = True,
    show_progress: bool = False,
) -> Conversion:
    """Convert a model into a new folder, which appears complete or not at all.

    Without ``bits``, ``group_size`` and ``mode`` no weights are packed, and those of a packed source are unpacked.

    Args:
        source: Alias, Hub name, local folder or GGUF file.
        target: A new or empty folder.
        bits: Bits per weight; may be None if the mode has only one width, or if nothing is to be packed.
        group_size: Number of weights that share a scale; None takes the mode's default.
        mode: "affine", "mxfp4", "mxfp8" or "nvfp4"; None is "affine".
        dtype: Type of the weights that are not packed: "float32", "bfloat16" or "float16"; None keeps the source's.
        revision: Branch, tag or commit on the Hub; None is the main branch.
        report: Whether to run both models on 500 texts and compare them. The result is loaded and run in any case.
        show_progress: Whether to draw progress bars.

    Raises:
        ConversionError: If it cannot be done as asked.
        UnknownModelError: If the source is not a known name or path.
        ModelLoadError: If the source cannot be downloaded or loaded.
        MissingExtraError: If mlx-lm, or MLX's back end, is not installed.
    """
    packing = choose_packing(bits, group_size, mode)
    if dtype is not None:
        check_one_of("--dtype", dtype, DTYPES)
    # Nothing is cached beyond this call.
    settings = EngineSettings.from_env(model=source, revision=revision)
    settings = settings.model_copy(update={"cache_path": None, "cache_bytes": 2**28, "cache_ttl": None})
    options = CallOptions(show_progress=show_progress)
    with _new_folder(target) as scratch:
        files, chosen_dtype, repacked, unpacked = _write(settings, scratch, packing, dtype)
        done = Conversion(
            source=source,
            target=target,
            packing=packing,
            dtype=chosen_dtype,
            source_bytes=_weight_bytes(files),
            target_bytes=_weight_bytes(ModelFiles(scratch)),
            unpacked=unpacked,
            repacked=repacked,
            cost=_run(settings, scratch, options, report=report),
        )
        _write_card(scratch / "README.md", done)
    return done


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Yield a folder to fill. It is renamed to the target at the end, or removed if anything fails."""
    target = Path(os.path.abspath(target))  # noqa: PTH100 - Path.resolve would follow a link that is in the way
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise ConversionError(f"{target} exists: name a new or empty folder, or remove it first")
    if not target.parent.is_dir():
        raise ConversionError(f"{target.parent} is not a folder, so {target.name} cannot be made in it: make it first")
    scratch = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    scratch.mkdir()
    try:
        yield scratch
        sync_tree(scratch)
        move(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write(
    settings: EngineSettings, target: Path, packing: Packing | None, dtype: str | None
) -> tuple[ModelFiles, str, bool, int]:
    files, backend = find_files(settings)
    # It imports MLX, which must come after the choice of a back end.
    from mlx_qwen_embeddings.tools.convert.model_folder import copy_other_files, write_weights  # noqa: PLC0415 - see above

    # Only this thread touches these arrays, so its streams can be cleared without affecting the caller's.
    with ThreadPoolExecutor(1, thread_name_prefix="mlx-qwen-convert") as pool:
        written = pool.submit(write_weights, files, target, packing, dtype, backend).result()
    copy_other_files(files, target)
    return files, *written


def _run(settings: EngineSettings, result: Path, options: CallOptions, *, report: bool) -> Cost | None:
    own = settings.model_copy(update={"model": str(result), "revision": None})
    try:
        with EmbeddingEngine(settings=own) as engine:
            if not report:
                engine.warmup()
                return None
            measured = measure(engine, options)
    except NonFiniteEmbeddingError as error:
        raise ConversionError(
            f"the result gives vectors that are not finite: choose another --dtype, or more --bits ({error})"
        ) from error
    with EmbeddingEngine(settings=settings) as engine:
        return compare(measure(engine, options), measured)


def measure(engine: EmbeddingEngine, options: CallOptions) -> Measured:
    """Run a model on the labelled set."""
    data = read_retrieval(LABELLED)
    documents = engine.embed_documents(data.documents.values(), **options)
    queries = engine.embed_queries(data.queries.values(), **options)
    return np.concatenate([documents, queries]), np.array(rank_scores(data, documents, queries))


def compare(source: Measured, result: Measured) -> Cost:
    """Return how far the result's vectors and scores are from the source's."""
    data = read_retrieval(LABELLED)
    texts = [*data.documents.values(), *data.queries.values()]
    cosines = np.einsum("nd,nd->n", source[0], result[0], dtype=np.float64)
    worst = int(cosines.argmin())
    change = result[1] - source[1]
    return Cost(
        texts=len(texts),
        mean=float(cosines.mean()),
        worst=float(cosines[worst]),
        worst_text=texts[worst],
        source_ndcg=float(source[1].mean()),
        result_ndcg=float(result[1].mean()),
        error=float(change.std(ddof=1) / np.sqrt(len(change))),
    )


def _weight_bytes(files: ModelFiles) -> int:
    from mlx_qwen_embeddings.compute.weights import weight_paths  # noqa: PLC0415 - it imports MLX

    return sum(path.stat().st_size for path in ([files.gguf] if files.gguf else weight_paths(files)))


def _write_card(path: Path, done: Conversion) -> None:
    source = Path(done.source).name if Path(done.source).exists() else done.source
    card = path.read_text(encoding="utf-8").rstrip() + "\n\n" if path.is_file() else ""
    card += f"## Converted from {source}\n\nWith `mlx-qwen convert` of mlx-qwen-embeddings:\n\n"
    path.write_text(card + "".join(f"- {sentence}\n" for sentence in done.sentences()), encoding="utf-8")
