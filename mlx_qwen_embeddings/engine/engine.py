"""The engine: texts in, vectors out, from any thread, process or event loop."""

import sys
import weakref
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence, Sized
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from os import PathLike
from types import TracebackType
from typing import Any, Self, Unpack

from numpy.typing import NDArray

from mlx_qwen_embeddings._html import NotebookTable, Table
from mlx_qwen_embeddings.cache.memory import MemoryCache
from mlx_qwen_embeddings.engine.call import WINDOW_TEXTS, Call, Embedded, make_plan
from mlx_qwen_embeddings.engine.drivers import INLINE_CHARACTERS, Deadline, adrive, ain_time, drive, in_time
from mlx_qwen_embeddings.engine.model import ModelFacts, Opened, OpenModel
from mlx_qwen_embeddings.options import CallOptions, EmbedOptions, whole_number
from mlx_qwen_embeddings.prompts import Role
from mlx_qwen_embeddings.settings import EngineSettings
from mlx_qwen_embeddings.stats import EngineStats
from mlx_qwen_embeddings.tokenization import check_ids, check_iterable, check_texts

Vectors = NDArray[Any]
"""float32 unless ``precision`` says otherwise."""


class EmbeddingEngine(NotebookTable):
    """One model behind one queue.

    Safe to use from any thread and any event loop, and in a forked child. Calls that arrive together share batches. The
    model is loaded by the first call. Every embedding method takes the keyword arguments that ``EmbedOptions`` documents,
    and raises

    - ``TypeError`` for anything but a list of strings; the message names the position;
    - ``InputTooLongError`` under ``truncate="error"``, and ``InvalidTextError`` for a lone surrogate;
    - ``ModelLoadError``, ``UnknownModelError`` or ``MissingExtraError`` when the model cannot be opened;
    - ``EmbeddingFailedError`` when texts could not be embedded (``NonFiniteEmbeddingError`` for NaN); ``.failures`` says
      which, and the others are cached;
    - ``EmbeddingTimeoutError``, ``EngineClosedError``, and ``EngineBusyError`` under ``wait=False``.
    """

    def __init__(
        self, model: str | PathLike[str] | None = None, *, settings: EngineSettings | None = None, **overrides: Any
    ) -> None:
        """Prepare an engine of your own; ``get_engine`` returns one that is shared.

        Args:
            model: Alias, Hub name or local folder; None takes ``MLX_QWEN_MODEL``, else "small".
            settings: All settings; None reads the environment.
            **overrides: Single settings that take precedence, see ``EngineSettings``; None leaves a setting as it is.

        Raises:
            pydantic.ValidationError: When a setting does not fit.
        """
        if model is not None:
            overrides["model"] = str(model)
        given = {name: value for name, value in overrides.items() if value is not None}
        base = settings.model_dump(exclude_unset=True) if settings else {}
        self._hold(OpenModel(EngineSettings(**base | given) if settings else EngineSettings.from_env(**given)))

    @classmethod
    def of(cls, model: OpenModel) -> Self:
        """Return an engine for a model that the package itself has prepared."""
        engine = cls.__new__(cls)
        engine._hold(model)  # noqa: SLF001 - of this very class
        return engine

    def _hold(self, model: OpenModel) -> None:
        self._model = model
        weakref.finalize(self, model.worker.close, 0).atexit = False  # at exit the worker closes itself
        weakref.finalize(self, model.cache.close)

    @property
    def settings(self) -> EngineSettings:
        """What the engine was made with."""
        return self._model.settings

    @property
    def dimensions(self) -> int:
        """Width of a full vector."""
        return self._model.known().files.dimensions

    @property
    def max_length(self) -> int:
        """Most tokens of a text unless a call says otherwise."""
        return self._model.known().files.max_length

    @property
    def limit(self) -> int:
        """Most tokens that a call may ask for as ``max_length``."""
        return self._model.known().files.limit

    @property
    def fingerprint(self) -> str:
        """Hash of the model's content and revision: models with the same fingerprint give the same vectors."""
        return self._model.known().fingerprint

    @property
    def revision(self) -> str | None:
        """The model's commit on the Hub; None for a folder or a file of your own, and for ``nano``."""
        return self._model.known().files.revision

    def embed_documents(self, texts: Iterable[str], **options: Unpack[CallOptions]) -> Vectors:
        """Embed documents.

        Args:
            texts: Any number of strings; they are never edited.
            **options: See ``EmbedOptions``.

        Returns:
            Shape (n, d), in the order of the input; float32 unless ``precision`` says otherwise, and of unit length
            unless ``normalize=False``.
        """
        return self._embed(texts, "document", EmbedOptions(**options))

    def embed_queries(self, texts: Iterable[str], **options: Unpack[CallOptions]) -> Vectors:
        """Embed queries, with the model's own prompt unless ``instruction`` says otherwise; shape (n, d)."""
        return self._embed(texts, "query", EmbedOptions(**options))

    def embed_query(self, text: str, **options: Unpack[CallOptions]) -> Vectors:
        """Embed one query; shape (d,)."""
        vector: Vectors = self.embed_queries([text], **options)[0]
        return vector

    async def aembed_documents(self, texts: Iterable[str], **options: Unpack[CallOptions]) -> Vectors:
        """Embed documents without blocking the event loop, see ``embed_documents``."""
        return (await self._aembed(texts, "document", EmbedOptions(**options))).vectors

    async def aembed_queries(self, texts: Iterable[str], **options: Unpack[CallOptions]) -> Vectors:
        """Embed queries without blocking the event loop, see ``embed_queries``."""
        return (await self._aembed(texts, "query", EmbedOptions(**options))).vectors

    async def aembed_query(self, text: str, **options: Unpack[CallOptions]) -> Vectors:
        """Embed one query without blocking the event loop, see ``embed_query``."""
        vector: Vectors = (await self.aembed_queries([text], **options))[0]
        return vector

    async def aembed(
        self, texts: Collection[Any], role: Role = "document", *, token_ids: bool = False, **options: Unpack[CallOptions]
    ) -> Embedded:
        """Embed without blocking the event loop, and return what a server has to account for as well.

        Args:
            texts: Strings; with ``token_ids``, lists of ids of the model's own tokenizer instead. Special tokens that the
                tokenizer puts around a text are added where they are missing.
            role: Whether they are queries or documents.
            token_ids: Whether ``texts`` are ids.
            **options: See ``EmbedOptions``.

        Raises:
            ValueError: Besides what every method raises: for an id that is not in the model's vocabulary.
        """
        return await self._aembed(texts, role, EmbedOptions(**options), token_ids=token_ids)

    def stream_documents(
        self, texts: Iterable[str], *, block_size: int = WINDOW_TEXTS, **options: Unpack[CallOptions]
    ) -> Generator[Vectors, None, None]:
        """Embed any number of documents in bounded memory; the next block is computed while one is used.

        Args:
            texts: Read as needed, at most two blocks ahead.
            block_size: Texts per block.
            **options: See ``EmbedOptions``; ``timeout`` applies to the wait for each block.

        Yields:
            Blocks of shape (at most ``block_size``, d), in the order of the input.
        """
        block_size = min(whole_number("block_size", block_size), sys.maxsize)
        checked = replace(EmbedOptions(**options), wait=True)
        total = len(texts) if isinstance(texts, Sized) else None
        return self._stream(_blocks(iter(check_iterable(texts)), block_size), total, checked)

    def _stream(
        self, blocks: Iterator[list[str]], total: int | None, options: EmbedOptions
    ) -> Generator[Vectors, None, None]:
        deadline = Deadline(options.timeout)
        call = Call(blocks, make_plan(self._model, self._open(deadline), "document", options), total)
        with closing(drive(call, deadline)) as found:
            for block in found:
                yield block.vectors

    def count_tokens(
        self,
        texts: Sequence[str],
        *,
        role: Role = "document",
        instruction: str | None = None,
        chat_template: bool | str | None = None,
    ) -> list[int]:
        """Count the tokens that the model reads for each text before any cut: with prompt, template and special tokens."""
        options = EmbedOptions(instruction=instruction, chat_template=chat_template)
        return make_plan(self._model, self._model.open(), role, options).count_tokens(check_texts(texts))

    @property
    def facts(self) -> ModelFacts:
        """Dimensions, length, pooling, prompts, compute type and device of the model."""
        opened = self._model.known()
        return ModelFacts.of(opened.files, opened.backend)

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory now."""
        return self._model.worker.model_bytes > 0

    def stats(self) -> EngineStats:
        """Return the counters as they are now."""
        model = self._model
        (requests, tokens), (memory, peak) = model.worker.queue, model.worker.memory
        return model.stats.snapshot(
            queued_requests=requests,
            queued_tokens=tokens,
            memory_bytes=memory,
            peak_memory_bytes=peak,
            cache_entries=len(model.cache),
            cache_bytes=model.cache.nbytes,
        )

    def warmup(self) -> Self:
        """Load the model and run a text through it, so that the first real call is as fast as the others."""
        plan = make_plan(self._model, self._model.open(), "document", EmbedOptions())
        plan = replace(plan, cache=MemoryCache(0))  # a vector that is known already would load nothing
        list(drive(Call([["warm up"]], plan), Deadline(None)))
        return self

    def close(self) -> None:
        """Stop the worker and free the model; calls that wait fail with ``EngineClosedError``, and so do later ones."""
        self._model.worker.close()
        self._model.cache.close()

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._model.worker.closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the settings alone: the copy opens the model by itself."""
        return partial(type(self), settings=self.settings), ()

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.settings.model_dump(exclude_defaults=True).items())
        return f"{type(self).__name__}({settings})"

    def _table(self) -> Table:
        settings = self.settings.model_dump(exclude_defaults=True) | {"model": self.settings.model}
        state = "closed" if self.closed else "loaded" if self.loaded else "loaded by the first call"
        facts: dict[str, Any] = {"model": settings.pop("model"), "state": state}
        if self.loaded:  # else asking would look for the model, which may be a download
            known = self.facts
            facts |= {"dimensions": self.dimensions, "tokens of a text": self.max_length}
            facts |= {"computes": f"{known.dtype} on {known.device}"}
        return type(self).__name__, facts | settings

    def _open(self, deadline: Deadline) -> Opened:
        limited = self._model.opened is None and deadline.left() is not None
        return in_time(self._model.open_in_thread(), deadline) if limited else self._model.open()

    def _embed(self, texts: Iterable[str], role: Role, options: EmbedOptions) -> Vectors:
        deadline = Deadline(options.timeout)
        checked = check_texts(texts)
        plan = make_plan(self._model, self._open(deadline), role, options)
        (found,) = drive(Call([checked], plan, len(checked)), deadline)
        return found.vectors

    async def _aembed(
        self, texts: Iterable[Any], role: Role, options: EmbedOptions, *, token_ids: bool = False
    ) -> Embedded:
        deadline = Deadline(options.timeout)
        given: list[Any] = list(texts) if token_ids else check_texts(texts)
        model = self._model
        model.worker.check_open()
        opened = model.opened
        if opened is None:
            opened = await ain_time(model.open_in_thread(), deadline)
        checked: list[Any] = check_ids(given, opened.tokenizer.vocabulary_size) if token_ids else given
        plan = make_plan(model, opened, role, options, token_ids=token_ids)
        characters = sum(map(len, checked)) + len(checked) * len(plan.render(""))
        inline = characters <= INLINE_CHARACTERS and not model.cache.blocks
        return await adrive(Call([checked], plan, len(checked)), deadline, inline=inline)


def _blocks(texts: Iterator[Any], size: int) -> Iterator[list[str]]:
    start = 0
    while block := list(islice(texts, size)):
        yield check_texts(block, start=start)
        start += len(block)
