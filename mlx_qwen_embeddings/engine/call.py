"""One call of an embedding method, as steps that a synchronous or an asynchronous driver takes.

The texts go through in windows: while the worker computes one, the next is tokenised, and memory stays bounded.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings.cache.memory import CacheKeys, VectorCache
from mlx_qwen_embeddings.engine.model import Opened
from mlx_qwen_embeddings.engine.queue import Request
from mlx_qwen_embeddings.errors import EmbeddingFailedError, InputTooLongError, ModelLoadError, NonFiniteEmbeddingError
from mlx_qwen_embeddings.options import EmbedOptions, Pooling, Truncate, check_choice, key_values
from mlx_qwen_embeddings.precision import quantize, unit_ranges
from mlx_qwen_embeddings.prompts import Role, chat_renderer, prompt_for
from mlx_qwen_embeddings.stats import StatsCounter
from mlx_qwen_embeddings.tokenization import Ids, TextTokenizer, TokenIds, check_length, keys_for_ids

WINDOW_TEXTS, WINDOW_CHARACTERS = 2048, 2**22
"""Size of a window: large enough to sort texts by length, small enough that its tokens take little memory."""

WINDOWS_AHEAD = 2
"""Windows in the worker's queue at a time, so that it never waits for the tokenizer."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything about a call but its texts.

    Attributes:
        render: Text to what the tokenizer sees: prompt and chat template applied.
        keys: Cache keys of this recipe.
        pooling: In force, never "native".
        prompt: Ids that texts may start with; None when there is no prompt.
        max_length: Most tokens of a text.
        truncate: The policy for longer ones.
        dimensions: Width of a full vector.
        on_truncated: Called with the number of texts that were cut, the tokens of the longest, and ``max_length``.
        start: Position of the first text, for messages, when the texts are a piece of more.
        call: What the requests of this call have in common.
    """

    tokenizer: TextTokenizer | TokenIds
    cache: VectorCache
    stats: StatsCounter
    render: Callable[[str], str]
    keys: Callable[[str], bytes]
    pooling: Pooling
    prompt: Ids | None
    max_length: int
    truncate: Truncate
    dimensions: int
    on_truncated: Callable[[int, int, int], None]
    start: int = 0
    call: object = field(default_factory=object)


@dataclass(frozen=True, slots=True)
class Details:
    """What a call can tell of its texts beside their vectors; both of shape (texts,).

    Attributes:
        tokens: Tokens of each text as the model read it: with prompt and special tokens, after any cut.
        cached: Whether its vector was known before.
    """

    tokens: NDArray[np.int64]
    cached: NDArray[np.bool_]

    @classmethod
    def of(cls, texts: int) -> Self:
        """Make room for so many texts."""
        return cls(np.zeros(texts, dtype=np.int64), np.zeros(texts, dtype=np.bool_))


class Embedded(NamedTuple):
    """Vectors (texts, d), and the ``Details`` of their texts."""

    vectors: NDArray[Any]
    tokens: NDArray[np.int64]
    cached: NDArray[np.bool_]


class Window:
    """Some distinct texts of a call: those in the cache, and a request for the rest."""

    def __init__(self, texts: Sequence[str], positions: list[int], recipe: Recipe) -> None:
        """Look the texts up, and tokenise those that are new.

        Args:
            texts: Distinct texts.
            positions: Where each stands in the caller's list, for messages.
            recipe: What to do with them.

        Raises:
            InputTooLongError: When one is too long and the policy refuses that.
        """
        self._recipe = recipe
        self.positions = positions
        self.vectors = np.empty((len(texts), recipe.dimensions), dtype=np.float32)
        self._keys = [recipe.keys(text) for text in texts]
        found = recipe.cache.get_many(self._keys)
        self._lengths = [entry.length if entry else 0 for entry in found]
        self._missing = [row for row, entry in enumerate(found) if entry is None]
        for row, entry in enumerate(found):
            if entry is not None:
                self.vectors[row] = entry.vector
        recipe.stats.add(cache_hits=len(texts) - len(self._missing), cache_misses=len(self._missing))
        rows = self._tokenize([texts[row] for row in self._missing])
        self._check_lengths()
        self.request = Request(rows, recipe.pooling, self._receive, recipe.prompt, recipe.call) if rows else None

    def _tokenize(self, texts: list[str]) -> list[NDArray[np.int32]]:
        recipe = self._recipe
        with recipe.stats.timed("tokenize_seconds"):
            tokens = recipe.tokenizer.encode([recipe.render(text) for text in texts], max_length=recipe.max_length)
        for row, token in zip(self._missing, tokens, strict=True):
            self._lengths[row] = token.length
        return [token.ids for token in tokens]

    def _check_lengths(self) -> None:
        recipe = self._recipe
        cut = [
            length
            for position, length in zip(self.positions, self._lengths, strict=True)
            if check_length(recipe.start + position, length, recipe.max_length, recipe.truncate)
        ]
        if cut:
            recipe.on_truncated(len(cut), max(cut), recipe.max_length)

    def _receive(self, rows: list[int], vectors: NDArray[np.float32]) -> None:
        places = [self._missing[row] for row in rows]
        self.vectors[places] = vectors
        self._recipe.cache.put_many(
            (self._keys[place], vector, self._lengths[place]) for place, vector in zip(places, vectors, strict=True)
        )

    @property
    def failures(self) -> dict[int, BaseException]:
        """Position in the call of each text that could not be embedded, with its reason."""
        failed = self.request.failures if self.request else {}
        return {self.positions[self._missing[row]]: error for row, error in failed.items()}

    def describe(self, details: Details) -> None:
        """Write down what is known of these texts."""
        details.tokens[self.positions] = np.minimum(self._lengths, self._recipe.max_length)
        cached = np.ones(len(self._keys), dtype=np.bool_)
        cached[self._missing] = False
        details.cached[self.positions] = cached

    @property
    def done(self) -> int:
        """Texts that have their vector or their failure."""
        return len(self._keys) - len(self._missing) + (self.request.done if self.request else 0)


def _failure(failures: dict[int, BaseException], texts: Sequence[str], start: int) -> EmbeddingFailedError:
    position, reason = min(failures.items())
    excerpt = texts[position][:60]
    more = f" (and {len(failures) - 1} more, see .failures)" if len(failures) > 1 else ""
    finite = all(isinstance(error, NonFiniteEmbeddingError) for error in failures.values())
    kind = NonFiniteEmbeddingError if finite else EmbeddingFailedError
    hint = ": the weights are broken or the compute type overflows; try dtype='float32'" if finite else ""
    numbered = {start + place: error for place, error in failures.items()}
    error = kind(f"texts[{start + position}] {excerpt!r} could not be embedded{more}: {reason}{hint}", numbered)
    error.__cause__ = reason
    return error


Step = tuple[Literal["submit", "wait"], Window]


def steps(texts: list[str], recipe: Recipe, out: NDArray[np.float32], details: Details | None = None) -> Iterator[Step]:
    """Embed distinct windows of ``texts`` into ``out``; the driver does what each step says.

    Args:
        texts: Checked strings, repeats allowed.
        recipe: What to do with them.
        out: Receives pooled vectors before normalisation; shape (texts, d).
        details: Receives what else is known of each text; None when nobody asks.

    Yields:
        "submit" for a window whose request is to be queued, "wait" for one whose future is to be awaited.

    Raises:
        NonFiniteEmbeddingError: When texts gave NaN or infinity; raised at the end, so that all others are cached.
        EmbeddingFailedError: When texts failed in other ways, likewise.
        InputTooLongError: When a text is too long and the policy refuses that.
    """
    first: dict[str, int] = {}
    for position, text in enumerate(texts):
        first.setdefault(text, position)
    recipe.stats.add(texts=len(texts), duplicates=len(texts) - len(first))
    underway: deque[Window] = deque()
    failed: dict[str, BaseException] = {}

    def collect(window: Window) -> None:
        failed.update({texts[position]: error for position, error in window.failures.items()})
        out[window.positions] = window.vectors
        if details is not None:
            window.describe(details)
        window.request = None  # it leads back to the window: a circle would keep both until Python looks for such

    for positions in _windows(list(first.values()), texts):
        window = Window([texts[position] for position in positions], positions, recipe)
        yield "submit", window
        underway.append(window)
        if len(underway) > WINDOWS_AHEAD:
            yield "wait", underway[0]
            collect(underway.popleft())
    while underway:
        yield "wait", underway[0]
        collect(underway.popleft())
    if failed:
        raise _failure(
            {position: failed[text] for position, text in enumerate(texts) if text in failed}, texts, recipe.start
        )
    if len(first) < len(texts):
        origin = [first[text] for text in texts]
        for array in (out,) if details is None else (out, details.tokens, details.cached):
            array[:] = array[origin]


def _windows(positions: list[int], texts: list[str]) -> Iterator[list[int]]:
    window: list[int] = []
    characters = 0
    for position in positions:
        window.append(position)
        characters += len(texts[position])
        if len(window) >= WINDOW_TEXTS or characters >= WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def make_recipe(
    opened: Opened,
    role: Role,
    options: EmbedOptions,
    *,
    cache: VectorCache,
    stats: StatsCounter,
    on_truncated: Callable[[int, int, int], None],
    start: int = 0,
) -> Recipe:
    """Fix prompt, template, pooling and length for a call.

    Args:
        opened: The model.
        role: Whether the texts are queries or documents.
        options: The call's options.
        cache: Where vectors are looked up and stored.
        stats: Where to count.
        on_truncated: Called when texts were cut, see ``Recipe``.
        start: Position of the first text, for messages.

    Raises:
        ValueError: When an option does not suit the model; the message gives the limits.
        ModelLoadError: When the model pools a prompt's text apart from the prompt, which is not served.
    """
    check_choice("role", role, get_args(Role))
    files = opened.files
    max_length = _max_length(opened, options.max_length)
    _check_dimensions(options.dimensions, files.dimensions)
    pooling = files.pooling if options.pooling == "native" else options.pooling
    prompt = prompt_for(role, options.instruction, files.prompts, files.family.template)
    _check_prompt(prompt, pooling, opened)
    template = _template(opened, options)
    settled = {"instruction": prompt, "pooling": pooling, "chat_template": template, "max_length": max_length}
    keys = CacheKeys(
        model=opened.identity,
        dtype=f"{opened.backend.device}-{opened.backend.dtype}",
        **key_values(options, "computed") | settled,
    )
    render = _renderer(prompt, template)
    return Recipe(
        tokenizer=opened.tokenizer,
        cache=cache,
        stats=stats,
        render=render,
        keys=keys,
        pooling=pooling,
        prompt=_prompt_ids(opened, render(""), max_length) if prompt or template else None,
        max_length=max_length,
        truncate=options.truncate,
        dimensions=files.dimensions,
        on_truncated=on_truncated,
        start=start,
    )


def recipe_for_ids(recipe: Recipe, opened: Opened, options: EmbedOptions) -> Recipe:
    """Give the recipe for texts that come as token ids.

    Raises:
        ValueError: When a chat template is asked for, which is made of text.
    """
    if options.chat_template:
        message = "a chat template is written around text, not around token ids: send text, or leave it out"
        raise ValueError(message)
    reader = TokenIds(opened.tokenizer, recipe.prompt)
    return replace(recipe, tokenizer=reader, render=lambda text: text, keys=keys_for_ids(recipe.keys))


def _check_prompt(prompt: str, pooling: Pooling, opened: Opened) -> None:
    # The last token is never the prompt's.
    if prompt and pooling != "last" and not opened.files.pools_prompt:
        message = (
            f"{opened.files.path} leaves the tokens of its prompt out of the pooling (include_prompt: false), which is not "
            'served: pass instruction="" to embed without a prompt, or take another model'
        )
        raise ModelLoadError(message)


def _max_length(opened: Opened, wanted: int | None) -> int:
    limit, special = opened.files.limit, opened.tokenizer.special_tokens
    if wanted is None:
        return opened.files.max_length
    if not special < wanted <= limit:
        message = f"max_length must lie between {special + 1} and {limit} for this model, got {wanted}"
        raise ValueError(message)
    return wanted


def _check_dimensions(wanted: int | None, full: int) -> None:
    if wanted is not None and wanted > full:
        message = f"dimensions={wanted} is more than the {full} that this model has"
        raise ValueError(message)


def _template(opened: Opened, options: EmbedOptions) -> str | None:
    wanted = options.chat_template
    if wanted is None or wanted is False:
        return None
    if isinstance(wanted, str):
        return wanted
    if opened.files.chat_template is None:
        message = f"{opened.files.path} has no chat template: pass one as chat_template='...', or leave it out"
        raise ValueError(message)
    return opened.files.chat_template


def _renderer(prompt: str, template: str | None) -> Callable[[str], str]:
    if template is None:
        return lambda text: prompt + text
    render = chat_renderer(template)
    return lambda text: render(prompt + text)


def _prompt_ids(opened: Opened, rendered: str, max_length: int) -> Ids:
    """Give the ids of an empty text: what every text of the call may start with."""
    tokens = opened.tokenizer.encode([rendered], max_length=opened.files.limit)[0]
    if tokens.length >= max_length:
        message = f"max_length={max_length} leaves no room for the text: its prompt has {tokens.length} tokens; raise it"
        raise InputTooLongError(message)
    return tokens.ids[: len(tokens.ids) - len(opened.tokenizer.suffix)]


def finish(vectors: NDArray[np.float32], options: EmbedOptions) -> NDArray[Any]:
    """Cut pooled vectors to the wanted dimensions, then give them unit length: in this order, as Matryoshka asks.

    Args:
        vectors: Pooled vectors, shape (n, d).
        options: ``dimensions``, ``normalize`` and at last ``precision`` are applied.

    Returns:
        Shape (n, dimensions); a bit a component for "binary" and "ubinary".
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
