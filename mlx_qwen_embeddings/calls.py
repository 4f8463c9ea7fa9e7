"""One call of an embedding method, as steps that a synchronous or an asynchronous driver takes.

The texts go through in windows: while the worker computes one, the next is tokenised, and memory stays bounded.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mlx_qwen_embeddings.cache import VectorCache
from mlx_qwen_embeddings.errors import EmbeddingFailedError, NonFiniteEmbeddingError
from mlx_qwen_embeddings.models import Pooling
from mlx_qwen_embeddings.schedule import Request
from mlx_qwen_embeddings.statistics import StatsCounter
from mlx_qwen_embeddings.token_ids import TokenIds
from mlx_qwen_embeddings.tokenization import Ids, TextTokenizer, Truncate, check_length

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
