"""The engine: texts in, vectors out, from any thread, process or event loop."""

import sys
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Sized
from dataclasses import replace
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Self, Unpack

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings._html import facts_table
from mlx_qwen_embeddings.cache.memory import MemoryCache
from mlx_qwen_embeddings.engine.call import (
    WINDOW_TEXTS,
    Details,
    Embedded,
    Recipe,
    finish,
    make_recipe,
    recipe_for_ids,
    steps,
)
from mlx_qwen_embeddings.engine.drivers import (
    INLINE_CHARACTERS,
    Ahead,
    Deadline,
    Progress,
    adrive,
    ain_time,
    drive,
    in_time,
)
from mlx_qwen_embeddings.engine.model import Core, ModelFacts, Opened
from mlx_qwen_embeddings.options import CallOptions, EmbedOptions, whole_number
from mlx_qwen_embeddings.prompts import Role
from mlx_qwen_embeddings.settings import EngineSettings
from mlx_qwen_embeddings.stats import EngineStats
from mlx_qwen_embeddings.tokenization import check_iterable, check_texts, spell

Vectors = NDArray[Any]
"""float32 unless ``precision`` says otherwise."""


class EmbeddingEngine:
    """One model behind one queue.

    Safe to use from any thread and any event loop, and in a forked child. Calls that arrive together share batches. The
    model is loaded by the first call. Every embedding method takes the keyword arguments that ``EmbedOptions`` documents:
    ``instruction``, ``dimensions``, ``normalize``, ``precision``, ``pooling``, ``max_length``, ``truncate``,
    ``chat_template``, ``timeout``, ``wait``, ``show_progress``. All of them raise

    - ``TypeError`` for what is no list of strings, naming the position;
    - ``InputTooLongError`` under ``truncate="error"``, ``InvalidTextError`` for a lone surrogate;
    - ``ModelLoadError``, ``UnknownModelError`` or ``MissingExtraError`` when the model cannot be opened;
    - ``EmbeddingFailedError`` when texts could not be embedded (``NonFiniteEmbeddingError`` for NaN); ``.failures`` says
      which, and the others are cached;
    - ``EmbeddingTimeoutError``, ``EngineClosedError``, and ``EngineBusyError`` under ``wait=False``.
    """

    def __init__(self, model: str | None = None, *, settings: EngineSettings | None = None, **overrides: Any) -> None:
        """Prepare an engine of one's own; ``get_engine`` gives one that is shared.

        Args:
            model: Alias, Hub name or local folder; None takes ``MLX_QWEN_MODEL``, else "small".
            settings: All settings; None reads the environment.
            **overrides: Single settings that win, see ``EngineSettings``; one that is None leaves it as it is.

        Raises:
            pydantic.ValidationError: When a setting does not fit.
        """
        if model is not None:
            overrides["model"] = str(model)
        given = {name: value for name, value in overrides.items() if value is not None}
        base = settings.model_dump(exclude_unset=True) if settings else {}
        self._core = Core(EngineSettings(**base | given) if settings else EngineSettings.from_env(**given))
        weakref.finalize(self, self._core.worker.close, 0).atexit = False  # the worker sees to that itself
        weakref.finalize(self, self._core.cache.close)

    @property
    def settings(self) -> EngineSettings:
        """What the engine was made with."""
        return self._core.settings

    @property
    def dimensions(self) -> int:
        """Width of a full vector."""
        return self._core.known().files.dimensions

    @property
    def max_length(self) -> int:
        """Most tokens of a text unless a call says otherwise."""
        return self._core.known().files.max_length

    @property
    def limit(self) -> int:
        """Most tokens that a call may ask for as ``max_length``."""
        return self._core.known().files.limit

    @property
    def fingerprint(self) -> str:
        """Hash of the model's content and revision: two models with the same one give the same vectors."""
        return self._core.known().identity

    @property
    def revision(self) -> str | None:
        """Commit on the Hub that the model is of; None for a folder or a file of your own, and for ``nano``."""
        return self._core.known().files.revision

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
        """Do as ``embed_documents`` without holding up the event loop."""
        return await self._aembed(texts, "document", EmbedOptions(**options))

    async def aembed_queries(self, texts: Iterable[str], **options: Unpack[CallOptions]) -> Vectors:
        """Do as ``embed_queries`` without holding up the event loop."""
        return await self._aembed(texts, "query", EmbedOptions(**options))

    async def aembed_query(self, text: str, **options: Unpack[CallOptions]) -> Vectors:
        """Do as ``embed_query`` without holding up the event loop."""
        vector: Vectors = (await self.aembed_queries([text], **options))[0]
        return vector

    async def aembed(
        self, texts: Collection[Any], role: Role = "document", *, token_ids: bool = False, **options: Unpack[CallOptions]
    ) -> Embedded:
        """Embed without holding up the event loop, and tell what a server has to account for.

        Args:
            texts: Strings; with ``token_ids``, lists of ids of the model's own tokenizer instead. What that puts around a
                text is added where it is missing.
            role: Whether they are queries or documents.
            token_ids: Whether ``texts`` are ids.
            **options: See ``EmbedOptions``.

        Raises:
            ValueError: Beside what every method raises: for an id that is none of the model's.
        """
        details = Details.of(len(texts))
        vectors = await self._aembed(texts, role, EmbedOptions(**options), details, ids=token_ids)
        return Embedded(vectors, details.tokens, details.cached)

    def stream_documents(
        self, texts: Iterable[str], *, block_size: int = WINDOW_TEXTS, **options: Unpack[CallOptions]
    ) -> Iterator[Vectors]:
        """Embed any number of documents in bounded memory; the next block is computed while one is used.

        Args:
            texts: Read as needed, at most two blocks ahead.
            block_size: Texts a block.
            **options: See ``EmbedOptions``; ``timeout`` holds for each block.

        Yields:
            Blocks of shape (at most ``block_size``, d), in the order of the input.
        """
        block_size = min(whole_number("block_size", block_size), sys.maxsize)
        checked = EmbedOptions(**options)
        # One bar over all blocks, not one a block.
        progress = partial(Progress, len(texts) if isinstance(texts, Sized) else None, show=checked.show_progress)
        return self._stream(iter(check_iterable(texts)), block_size, replace(checked, show_progress=False), progress)

    def _stream(
        self, texts: Iterator[str], block_size: int, options: EmbedOptions, make_progress: Callable[[], Progress]
    ) -> Iterator[Vectors]:
        start, underway = 0, deque[Ahead]()
        call = object()  # its blocks take turns as one
        with make_progress() as progress:
            try:
                while block := list(islice(texts, block_size)):
                    embed = partial(self._embed, block, "document", options, start=start, call=call)
                    underway.append(Ahead(embed, options.timeout))
                    start += len(block)
                    if len(underway) > 1:
                        yield progress.counted(underway[0].result())
                        underway.popleft()
                while underway:
                    yield progress.counted(underway[0].result())
                    underway.popleft()
            finally:
                for ahead in underway:
                    ahead.give_up()

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
        recipe = self._recipe(self._core.open(), role, options, 0)
        return recipe.tokenizer.count([recipe.render(text) for text in check_texts(texts)])

    @property
    def facts(self) -> ModelFacts:
        """Dimensions, length, pooling, prompts, compute type and device of the model."""
        return self._core.known().facts

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory now."""
        return self._core.worker.model_bytes > 0

    def stats(self) -> EngineStats:
        """Give the counters as they are now."""
        core = self._core
        (requests, tokens), (memory, peak) = core.worker.queue, core.worker.memory
        return core.stats.snapshot(
            queued_requests=requests,
            queued_tokens=tokens,
            memory_bytes=memory,
            peak_memory_bytes=peak,
            cache_entries=len(core.cache),
            cache_bytes=core.cache.nbytes,
        )

    def warmup(self) -> Self:
        """Load the model and run a text through it, so that the first real call is as fast as the others."""
        recipe = self._recipe(self._core.open(), "document", EmbedOptions(), 0)
        recipe = replace(recipe, cache=MemoryCache(0))  # a vector that is known already would load nothing
        out: Vectors = np.empty((1, recipe.dimensions), dtype=np.float32)
        drive(steps(["warm up"], recipe, out), self._core.worker, Deadline(None), Progress(1, show=False))
        return self

    def close(self) -> None:
        """Stop the worker and free the model; calls that wait fail with ``EngineClosedError``, and so do later ones."""
        self._core.worker.close()
        self._core.cache.close()

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._core.worker.closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle to the settings: the copy opens the model by itself."""
        return partial(type(self), settings=self.settings), ()

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.settings.model_dump(exclude_defaults=True).items())
        return f"{type(self).__name__}({settings})"

    def _repr_html_(self) -> str:
        settings = self.settings.model_dump(exclude_defaults=True) | {"model": self.settings.model}
        state = "closed" if self.closed else "loaded" if self.loaded else "loaded by the first call"
        facts: dict[str, Any] = {"model": settings.pop("model"), "state": state}
        if self.loaded:  # else asking would look for the model, which may be a download
            known = self.facts
            facts |= {"dimensions": self.dimensions, "tokens of a text": self.max_length}
            facts |= {"computes": f"{known.dtype} on {known.device}"}
        return facts_table(type(self).__name__, facts | settings)

    def _recipe(self, opened: Opened, role: Role, options: EmbedOptions, start: int) -> Recipe:
        core = self._core
        return make_recipe(
            opened, role, options, cache=core.cache, stats=core.stats, on_truncated=core.warn_truncated, start=start
        )

    def _embed(
        self,
        texts: Iterable[str],
        role: Role,
        options: EmbedOptions,
        deadline: Deadline | None = None,
        *,
        start: int = 0,
        call: object = None,
    ) -> Vectors:
        deadline = deadline or Deadline(options.timeout, wait=options.wait)
        checked = check_texts(texts, start=start)
        hurried = self._core.opened is None and deadline.left() is not None
        opened = in_time(self._core.open_beside(), deadline) if hurried else self._core.open()
        recipe = self._recipe(opened, role, options, start)
        recipe = replace(recipe, call=call or recipe.call)
        out: Vectors = np.empty((len(checked), recipe.dimensions), dtype=np.float32)
        with Progress(len(checked), show=options.show_progress) as progress:
            drive(steps(checked, recipe, out), self._core.worker, deadline, progress)
        return finish(out, options)

    async def _aembed(
        self, texts: Iterable[Any], role: Role, options: EmbedOptions, details: Details | None = None, *, ids: bool = False
    ) -> Vectors:
        deadline = Deadline(options.timeout, wait=options.wait)
        checked: list[Any] = list(texts) if ids else list(check_texts(texts))
        self._core.worker.check_open()
        opened = self._core.opened
        if opened is None:
            opened = await ain_time(self._core.open_beside(), deadline)
        recipe = self._recipe(opened, role, options, 0)
        if ids:
            checked, recipe = spell(checked, opened.tokenizer.vocabulary_size), recipe_for_ids(recipe, opened, options)
        out: Vectors = np.empty((len(checked), recipe.dimensions), dtype=np.float32)
        characters = sum(map(len, checked)) + len(checked) * len(recipe.render(""))
        inline = characters <= INLINE_CHARACTERS and not recipe.cache.blocks
        with Progress(len(checked), show=options.show_progress) as progress:
            await adrive(steps(checked, recipe, out, details), self._core.worker, deadline, progress, inline=inline)
        return finish(out, options)
