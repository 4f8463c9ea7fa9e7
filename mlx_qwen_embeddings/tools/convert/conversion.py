"""Convert a model to MLX's form, packed or not, and say what that costs."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.engine import EmbeddingEngine
from mlx_qwen_embeddings.engine.model import locate
from mlx_qwen_embeddings.errors import NonFiniteEmbeddingError
from mlx_qwen_embeddings.options import CallOptions
from mlx_qwen_embeddings.settings import EngineSettings
from mlx_qwen_embeddings.tools.convert.choice import Choice, ConversionError, choose
from mlx_qwen_embeddings.tools.convert.cost import Cost, compare, measure
from mlx_qwen_embeddings.tools.convert.folder import appearing, copy_side_files
from mlx_qwen_embeddings.tools.convert.report import Conversion

if TYPE_CHECKING:
    from mlx_qwen_embeddings.tools.convert.weights import Written

__all__ = ["Conversion", "ConversionError", "Cost", "convert"]


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
    """Convert a model into a new folder, which appears whole or not at all.

    Without ``bits``, ``group_size`` and ``mode`` the weights are stored plain, also those of a packed source.

    Args:
        source: Alias, Hub name, local folder or GGUF file.
        target: A folder that is new or empty.
        bits: Bits a weight; None where the mode has one width only, or nothing is to be packed.
        group_size: Weights that share a scale; None takes the mode's default.
        mode: "affine", "mxfp4", "mxfp8" or "nvfp4"; None is "affine".
        dtype: Type of what is not packed: "float32", "bfloat16" or "float16"; None is the source's.
        revision: Branch, tag or commit on the Hub; None is the main branch.
        report: Whether to compare the result with its source, which runs both over 500 texts. The result is loaded and run
            in any case.
        show_progress: Whether to draw progress bars.

    Raises:
        ConversionError: When it cannot be done as asked.
        UnknownModelError: When the source means nothing.
        ModelLoadError: When the source cannot be had or loaded.
        MissingExtraError: When mlx-lm, or MLX's back end, is not installed.
    """
    choice = choose(bits, group_size, mode, dtype)
    settings = EngineSettings.from_env(model=source, revision=revision)
    # On the measured texts two models are to be computed once each, and nothing is to be kept of either.
    settings = settings.model_copy(update={"cache_path": None, "cache_bytes": 2**28, "cache_ttl": None})
    options = CallOptions(show_progress=show_progress)
    with appearing(target) as scratch:
        files, written = _write(settings, scratch, choice, dtype)
        cost = _run(settings, scratch, options, report=report)
        done = Conversion(
            source=source,
            target=target,
            choice=choice,
            dtype=written.dtype,
            source_bytes=_weight_bytes(files),
            target_bytes=_weight_bytes(ModelFiles(scratch)),
            plain=written.plain,
            repacked=written.repacked,
            cost=cost,
        )
        _write_card(scratch / "README.md", done)
    return done


def _write(
    settings: EngineSettings, scratch: Path, choice: Choice | None, dtype: str | None
) -> "tuple[ModelFiles, Written]":
    files, backend = locate(settings)
    # It imports MLX, which must come after the choice of a back end.
    from mlx_qwen_embeddings.tools.convert.weights import write_model  # noqa: PLC0415 - as said above

    # A thread of its own, which alone touches these arrays, and whose streams can be cleared without harm to the caller's.
    with ThreadPoolExecutor(1, thread_name_prefix="mlx-qwen-convert") as pool:
        written = pool.submit(write_model, files, scratch, choice, dtype, backend).result()
    copy_side_files(files, scratch)
    return files, written


def _run(settings: EngineSettings, scratch: Path, options: CallOptions, *, report: bool) -> Cost | None:
    own = settings.model_copy(update={"model": str(scratch), "revision": None})
    try:
        with EmbeddingEngine(settings=own) as engine:
            if not report:
                engine.warmup()
                return None
            result = measure(engine, options=options)
    except NonFiniteEmbeddingError as error:
        message = f"the result gives vectors that are not finite: choose another --dtype, or more --bits ({error})"
        raise ConversionError(message) from error
    with EmbeddingEngine(settings=settings) as engine:
        return compare(measure(engine, options=options), result)


def _weight_bytes(files: ModelFiles) -> int:
    from mlx_qwen_embeddings.compute.weights import weight_paths  # noqa: PLC0415 - it imports MLX

    return sum(path.stat().st_size for path in ([files.gguf] if files.gguf else weight_paths(files)))


def _write_card(path: Path, done: Conversion) -> None:
    source = Path(done.source).name if Path(done.source).exists() else done.source
    lines = [f"- {line}" for line in done.lines()]
    heading = f"## Converted from {source}\n\nWith `mlx-qwen convert` of mlx-qwen-embeddings:\n\n"
    card = path.read_text(encoding="utf-8").rstrip() + "\n\n" if path.is_file() else ""
    path.write_text(card + heading + "\n".join(lines) + "\n", encoding="utf-8")
