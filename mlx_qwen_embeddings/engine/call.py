"""One call of an embedding method, as steps that a synchronous or an asynchronous driver takes.

The texts go through in windows: while the worker computes one, the next is tokenised, and memory stays bounded.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings.cache.memory import CacheKeys, MemoryCache
from mlx_qwen_embeddings.engine.model import Opened, OpenModel
from mlx_qwen_embeddings.engine.queue import Request
from mlx_qwen_embeddings.errors import EmbeddingFailedError, InputTooLongError, ModelLoadError, NonFiniteEmbeddingError
from mlx_qwen_embeddings.options import EmbedOptions, Pooling, check_choice, key_values
from mlx_qwen_embeddings.precision import quantize, unit_ranges
from mlx_qwen_embeddings.prompts import Role, chat_renderer, prompt_for
from mlx_qwen_embeddings.tokenization import Ids, TextTokenizer, TokenIds, Tokens, check_length

WINDOW_TEXTS, WINDOW_CHARACTERS = 2048, 2**22
"""Size of a window: large enough to sort texts by length, small enough that its tokens take little memory."""

WINDOWS_AHEAD = 2
"""Windows that wait in the worker's queue while it computes another, so that it never waits for the tokenizer."""

EXCERPT = 60
"""Characters of a text that an error message shows."""

Text = str | bytes
"""A text, or token ids as ``check_ids`` returns them."""


@dataclass(frozen=True, slots=True)
class CallPlan:
    """Everything about a call but its texts.

    Attributes:
        model: The model.
        options: The call's options.
        cache: Where vectors are looked up and stored.
        tokenizer: The model's.
        render: Writes prompt and chat template around a text.
        token_ids: What reads texts that come as token ids; None when they are strings.
        keys: Returns a text's cache key.
        pooling: The pooling to use, never "native".
        prompt: Ids that texts may start with; None when there is no prompt.
        max_length: Most tokens of a text.
        dimensions: Width of a full vector.
        call: What the requests of this call have in common.
    """

    model: OpenModel
    options: EmbedOptions
    cache: MemoryCache
    tokenizer: TextTokenizer
    render: Callable[[str], str]
    token_ids: TokenIds | None
    keys: Callable[[Text], bytes]
    pooling: Pooling
    prompt: Ids | None
    max_length: int
    dimensions: int
    call: object = field(default_factory=object)

    def tokenize(self, texts: Sequence[Any]) -> list[Tokens]:
        """Turn texts into tokens, cut to ``max_length``."""
        with self.model.stats.timed("tokenize_seconds"):
            if self.token_ids is not None:
                return self.token_ids.encode(texts, max_length=self.max_length)
            return self.tokenizer.encode([self.render(text) for text in texts], max_length=self.max_length)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of each text before any cut."""
        return self.tokenizer.count([self.render(text) for text in texts])


class Embedded(NamedTuple):
    """What a call knows of its texts.

    Attributes:
        vectors: Shape (texts, d).
        tokens: Tokens of each text as the model read it: with prompt and special tokens, after any cut; shape (texts,).
        cached: Whether a text's vector was known before; shape (texts,).
    """

    vectors: NDArray[Any]
    tokens: NDArray[np.int64]
    cached: NDArray[np.bool_]


class Block:
    """Texts that are returned together: all texts of a call, or one block of a stream."""

    def __init__(self, texts: Sequence[Text], start: int, plan: CallPlan) -> None:
        """Find the distinct texts.

        Args:
            texts: Checked texts, or token ids.
            start: Position of the first one in the call, for messages.
            plan: What to do with them.
        """
        self.texts, self.start = texts, start
        self._plan = plan
        self._first: dict[Text, int] = {}
        for position, text in enumerate(texts):
            self._first.setdefault(text, position)
        plan.model.stats.add(texts=len(texts), duplicates=len(texts) - len(self._first))
        self.vectors = np.empty((len(texts), plan.dimensions), dtype=np.float32)
        self.tokens = np.zeros(len(texts), dtype=np.int64)
        self.cached = np.zeros(len(texts), dtype=np.bool_)
        self.failed: dict[Text, BaseException] = {}

    def windows(self) -> Iterator["Window"]:
        """Look up and tokenise the distinct texts, window by window; an empty block has one empty window.

        Raises:
            InputTooLongError: When a text is too long and the policy is to refuse it.
        """
        spans = list(_spans(list(self._first.values()), self.texts)) or [[]]
        for positions in spans:
            yield Window(self, positions, self._plan, last=positions is spans[-1])

    def result(self) -> Embedded:
        """Return what is known once the last window is done.

        Raises:
            EmbeddingFailedError: When texts could not be embedded.
        """
        if self.failed:
            failures = {position: self.failed[text] for position, text in enumerate(self.texts) if text in self.failed}
            raise _failure(failures, self.texts, self.start)
        found = Embedded(self.vectors, self.tokens, self.cached)
        if len(self._first) < len(self.texts):
            origin = [self._first[text] for text in self.texts]
            found = Embedded(self.vectors[origin], self.tokens[origin], self.cached[origin])
        return found._replace(vectors=postprocess(found.vectors, self._plan.options))


class Window:
    """Some distinct texts of a block: those in the cache, and a request for the rest."""

    def __init__(self, block: Block, positions: list[int], plan: CallPlan, *, last: bool) -> None:
        """Look the texts up, and tokenise those that are new.

        Args:
            block: What they are part of.
            positions: Their positions in the block.
            plan: What to do with them.
            last: Whether the block ends with this window.

        Raises:
            InputTooLongError: When a text is too long and the policy is to refuse it.
        """
        self.block, self.last = block, last
        self._positions, self._plan = positions, plan
        texts = [block.texts[position] for position in positions]
        self._vectors = np.empty((len(texts), plan.dimensions), dtype=np.float32)
        self._keys = [plan.keys(text) for text in texts]
        found = plan.cache.get_many(self._keys)
        self._lengths = [entry.length if entry else 0 for entry in found]
        self._missing = [row for row, entry in enumerate(found) if entry is None]
        for row, entry in enumerate(found):
            if entry is not None:
                self._vectors[row] = entry.vector
        plan.model.stats.add(cache_hits=len(texts) - len(self._missing), cache_misses=len(self._missing))
        tokens = plan.tokenize([texts[row] for row in self._missing])
        self._rows = [token.ids for token in tokens]
        for row, token in zip(self._missing, tokens, strict=True):
            self._lengths[row] = token.length
        self._check_lengths()
        self.request: Request | None = None

    def _check_lengths(self) -> None:
        plan, start = self._plan, self.block.start
        cut = [
            length
            for position, length in zip(self._positions, self._lengths, strict=True)
            if check_length(start + position, length, plan.max_length, plan.options.truncate)
        ]
        if cut:
            plan.model.warn_truncated(len(cut), max(cut), plan.max_length)

    def submit(self, *, wait: bool) -> Future[None] | None:
        """Queue what is missing, and return a future of its admission; None when nothing is missing.

        Raises:
            EngineBusyError: When the queue is full and ``wait`` is false.
            EngineClosedError: When the engine is closed.
        """
        self._process = os.getpid()
        if not self._rows:
            return None
        plan = self._plan
        self.request = Request(self._rows, plan.pooling, self._receive, plan.prompt, plan.call)
        return plan.model.worker.submit(self.request, wait=wait)

    @property
    def is_inherited(self) -> bool:
        """Whether it was queued in another process, from which this one was forked."""
        return self._process != os.getpid()

    def cancel(self) -> None:
        """Take what is left out of the queue."""
        if self.request is not None and not self.is_inherited:
            self.request.future.cancel()

    def _receive(self, rows: list[int], vectors: NDArray[np.float32]) -> None:
        places = [self._missing[row] for row in rows]
        self._vectors[places] = vectors
        self._plan.cache.put_many(
            (self._keys[place], vector, self._lengths[place]) for place, vector in zip(places, vectors, strict=True)
        )

    def collect(self) -> None:
        """Write into the block what is known of the texts, and let go of the request."""
        block, positions = self.block, self._positions
        block.vectors[positions] = self._vectors
        block.tokens[positions] = np.minimum(self._lengths, self._plan.max_length)
        block.cached[positions] = True
        block.cached[[positions[row] for row in self._missing]] = False
        if self.request is not None:
            for row, error in self.request.failures.items():
                block.failed[block.texts[positions[self._missing[row]]]] = error
        self.request = None  # it refers back to the window, and only the garbage collector would free both

    @property
    def done(self) -> int:
        """Number of texts that have their vector or their failure."""
        return len(self._keys) - len(self._missing) + (self.request.done if self.request else 0)


Step = Future[None] | Embedded


class Call:
    """One call of an embedding method. Its texts go through the worker window by window."""

    def __init__(self, blocks: Iterable[Sequence[Text]], plan: CallPlan, total: int | None = None) -> None:
        """Prepare; nothing is read.

        Args:
            blocks: Checked texts that are returned together. What raises here is raised in its turn.
            plan: What to do with them.
            total: Number of texts in all blocks; None when it is not known.
        """
        self.plan, self.total = plan, total
        self._blocks = blocks
        self._wait = plan.options.wait
        self._current: Block | None = None  # what the next window is made of
        self._underway: deque[Window] = deque()
        self._finished = 0

    @property
    def done(self) -> int:
        """Number of texts that have their vector or their failure."""
        return self._finished + sum(window.done for window in tuple(self._underway))

    def steps(self) -> Generator[Step, None, None]:
        """Yield futures, each of which has to be waited for, and every block once its texts are embedded.

        Between these, texts are read, looked up and tokenised. Closing the generator takes what is left out of the queue.

        Raises:
            Exception: What reading the texts raises, and what embedding methods do. Earlier blocks are yielded first.
        """
        underway, windows = self._underway, self._windows()
        try:
            failure: Exception | None = None
            while True:
                try:
                    window = next(windows, None)
                except Exception as error:  # noqa: BLE001 - it is raised below
                    window, failure = None, error
                if window is None:
                    break
                underway.append(window)
                yield from self._submit(window)
                if len(underway) > WINDOWS_AHEAD:
                    yield from self._collect()
            while underway and (failure is None or underway[0].block is not self._current):
                yield from self._collect()
            if failure is not None:
                raise failure
        finally:
            for window in underway:
                window.cancel()

    def _windows(self) -> Iterator[Window]:
        start = 0
        for texts in self._blocks:
            self._current = Block(texts, start, self.plan)
            start += len(texts)
            yield from self._current.windows()
            self._current = None

    def _submit(self, window: Window) -> Iterator[Step]:
        admitted = window.submit(wait=self._wait)
        if admitted is not None:
            self._wait = True  # once its first window is admitted, a call is served to the end
            yield admitted

    def _collect(self) -> Iterator[Step]:
        window = self._underway[0]
        if window.is_inherited:  # the worker of a forked child does not know of it
            yield from self._submit(window)
        if window.request is not None:
            yield window.request.future
        self._finished += window.done
        window.collect()
        self._underway.popleft()
        if window.last:
            self._finished = window.block.start + len(window.block.texts)
            yield window.block.result()


def _spans(positions: list[int], texts: Sequence[Text]) -> Iterator[list[int]]:
    span: list[int] = []
    characters = 0
    for position in positions:
        span.append(position)
        characters += len(texts[position])
        if len(span) >= WINDOW_TEXTS or characters >= WINDOW_CHARACTERS:
            yield span
            span, characters = [], 0
    if span:
        yield span


def _failure(failures: dict[int, BaseException], texts: Sequence[Text], start: int) -> EmbeddingFailedError:
    position, reason = min(failures.items())
    excerpt = _excerpt(texts[position])
    more = f" (and {len(failures) - 1} more, see .failures)" if len(failures) > 1 else ""
    finite = all(isinstance(error, NonFiniteEmbeddingError) for error in failures.values())
    kind = NonFiniteEmbeddingError if finite else EmbeddingFailedError
    hint = ": the weights are broken or the compute type overflows; try dtype='float32'" if finite else ""
    numbered = {start + place: error for place, error in failures.items()}
    error = kind(f"texts[{start + position}] {excerpt} could not be embedded{more}: {reason}{hint}", numbered)
    error.__cause__ = reason
    return error


def _excerpt(text: Text) -> str:
    return repr(text[:EXCERPT] if isinstance(text, str) else np.frombuffer(text, np.int32)[: EXCERPT // 4].tolist())


def make_plan(model: OpenModel, opened: Opened, role: Role, options: EmbedOptions, *, token_ids: bool = False) -> CallPlan:
    """Settle prompt, template, pooling and length for a call.

    Args:
        model: The model.
        opened: The same, opened.
        role: Whether the texts are queries or documents.
        options: The call's options.
        token_ids: Whether the texts come as token ids.

    Raises:
        ValueError: When an option does not suit the model, or token ids; the message gives the limits.
        ModelLoadError: When the model leaves the prompt out of its pooling, which is not supported.
    """
    check_choice("role", role, get_args(Role))
    files = opened.files
    max_length = _max_length(opened, options.max_length)
    _check_dimensions(options.dimensions, files.dimensions)
    pooling = files.pooling if options.pooling == "native" else options.pooling
    prompt = prompt_for(role, options.instruction, files.prompts, files.family.template)
    _check_prompt(prompt, pooling, opened)
    template = _template(opened, options)
    render = _renderer(prompt, template)
    prompt_ids = _prompt_ids(opened, render(""), max_length) if prompt or template else None
    if token_ids and options.chat_template:
        raise ValueError("a chat template is written around text, not around token ids: send text, or leave it out")
    settled = {"instruction": prompt, "pooling": pooling, "chat_template": template, "max_length": max_length}
    keys = CacheKeys(
        model=opened.fingerprint,
        dtype=f"{opened.backend.device}-{opened.backend.dtype}",
        **key_values(options, "computed") | settled,
    )
    return CallPlan(
        model=model,
        options=options,
        cache=model.cache,
        tokenizer=opened.tokenizer,
        render=render,
        token_ids=TokenIds(opened.tokenizer, prompt_ids) if token_ids else None,
        keys=keys,
        pooling=pooling,
        prompt=prompt_ids,
        max_length=max_length,
        dimensions=files.dimensions,
    )


def _check_prompt(prompt: str, pooling: Pooling, opened: Opened) -> None:
    # The last token never belongs to the prompt.
    if prompt and pooling != "last" and not opened.files.pools_prompt:
        raise ModelLoadError(
            f"{opened.files.path} leaves the tokens of its prompt out of the pooling (include_prompt: false), which is not "
            'supported: pass instruction="" to embed without a prompt, or take another model'
        )


def _max_length(opened: Opened, wanted: int | None) -> int:
    limit, special = opened.files.limit, len(opened.tokenizer.prefix) + len(opened.tokenizer.suffix)
    if wanted is None:
        return opened.files.max_length
    if not special < wanted <= limit:
        raise ValueError(f"max_length must lie between {special + 1} and {limit} for this model, got {wanted}")
    return wanted


def _check_dimensions(wanted: int | None, full: int) -> None:
    if wanted is not None and wanted > full:
        raise ValueError(f"dimensions={wanted} is more than the {full} that this model has")


def _template(opened: Opened, options: EmbedOptions) -> str | None:
    wanted = options.chat_template
    if wanted is None or wanted is False:
        return None
    if isinstance(wanted, str):
        return wanted
    if opened.files.chat_template is None:
        raise ValueError(f"{opened.files.path} has no chat template: pass one as chat_template='...', or leave it out")
    return opened.files.chat_template


def _renderer(prompt: str, template: str | None) -> Callable[[str], str]:
    if template is None:
        return lambda text: prompt + text
    render = chat_renderer(template)
    return lambda text: render(prompt + text)


def _prompt_ids(opened: Opened, rendered: str, max_length: int) -> Ids:
    """Return the ids of an empty text: what every text of the call may start with."""
    tokens = opened.tokenizer.encode([rendered], max_length=opened.files.limit)[0]
    if tokens.length >= max_length:
        raise InputTooLongError(
            f"max_length={max_length} leaves no room for the text: its prompt has {tokens.length} tokens; raise it"
        )
    return tokens.ids[: len(tokens.ids) - len(opened.tokenizer.suffix)]


def postprocess(vectors: NDArray[np.float32], options: EmbedOptions) -> NDArray[Any]:
    """Cut pooled vectors to the wanted dimensions, then normalise them: in this order, as Matryoshka asks.

    Args:
        vectors: Pooled vectors, shape (n, d).
        options: ``dimensions``, ``normalize`` and last ``precision`` are applied.

    Returns:
        Shape (n, dimensions); "binary" and "ubinary" pack eight dimensions into a byte.
    """
    if options.dimensions is not None:
        vectors = vectors[:, : options.dimensions]
    if options.normalize:
        # As torch.nn.functional.normalize: a zero vector stays one.
        norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
        vectors = vectors / np.maximum(norms, 1e-12)[:, None]
    vectors = np.ascontiguousarray(vectors)
    whole = options.precision == "float32"
    return vectors if whole else quantize(vectors, options.precision, unit_ranges(vectors.shape[1]))
