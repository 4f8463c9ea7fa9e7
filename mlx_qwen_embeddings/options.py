"""What shapes one call: checked once, before anything is computed."""

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal, TypedDict, get_args

from mlx_qwen_embeddings.errors import InvalidTextError
from mlx_qwen_embeddings.precision import PRECISIONS, Precision, check_precision
from mlx_qwen_embeddings.tokenization import Truncate

Pooling = Literal["last", "mean", "first", "max"]
"""How the token states of a text become its vector; "first" is the CLS token of BERT."""

PoolingOption = Literal["native"] | Pooling


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedOptions:
    """The keyword arguments that every embedding method takes.

    Attributes:
        instruction: The task in words, written in front of each text the way the model was trained; None takes the
            model's own prompt for the role, "" none.
        dimensions: Keep this many leading dimensions, then normalise again (Matryoshka); None keeps all.
        normalize: Whether vectors have unit length.
        precision: "float32" or "float16"; "int8" or "uint8", steps of a range that the dimensions alone fix, so that all
            calls can be compared; "binary" or "ubinary", one bit a component, eight to a byte.
        pooling: How token states become a vector; "native" is what the model was trained with.
        max_length: Most tokens of a text, prompt and special tokens included; None is the model's default, see
            ``engine.max_length``. It can be raised up to ``engine.limit``.
        truncate: "end" cuts longer texts, counted and warned of once; "error" refuses them.
        chat_template: True renders each text as a user's turn with the model's own chat template, a string with that
            Jinja source; None or False leaves texts as they are.
        timeout: Seconds after which the call gives up; None waits.
        wait: Whether to wait while the queue is full; False raises ``EngineBusyError``. A stream always waits.
        show_progress: Whether to draw a progress bar.
    """

    instruction: str | None = None
    dimensions: int | None = None
    normalize: bool = True
    precision: Precision = "float32"
    pooling: PoolingOption = "native"
    max_length: int | None = None
    truncate: Truncate = "end"
    chat_template: bool | str | None = None
    timeout: float | None = None
    wait: bool = True
    show_progress: bool = False

    def __post_init__(self) -> None:
        """Refuse what no model could serve; what depends on the model is checked by the engine."""
        check_choice("pooling", self.pooling, ("native", *get_args(Pooling)))
        check_choice("truncate", self.truncate, get_args(Truncate))
        check_choice("precision", self.precision, PRECISIONS)
        for name, value in (("dimensions", self.dimensions), ("max_length", self.max_length)):
            if value is None:
                continue
            object.__setattr__(
                self, name, whole_number(name, value, ", or None")
            )  # numpy's integers are no JSON, and end up in cache keys
        for name in ("normalize", "wait", "show_progress"):
            if not isinstance(getattr(self, name), bool):
                message = f"{name} must be True or False, got {getattr(self, name)!r}"
                raise TypeError(message)
        check_precision(self.precision, normalize=self.normalize)
        if self.instruction is not None and not isinstance(self.instruction, str):
            message = f"instruction must be a string or None, got {self.instruction!r}"
            raise TypeError(message)
        if self.chat_template is not None and not isinstance(self.chat_template, (bool, str)):
            message = f"chat_template must be a string, True, False or None, got {self.chat_template!r}"
            raise TypeError(message)
        for name, words in (("instruction", self.instruction), ("chat_template", self.chat_template)):
            _check_unicode(name, words)
        if self.timeout is not None and not (isinstance(self.timeout, Real) and self.timeout > 0):
            message = f"timeout must be seconds above 0, or None, got {self.timeout!r}"
            raise ValueError(message)


class CallOptions(TypedDict, total=False):
    """The fields of ``EmbedOptions`` as keyword arguments."""

    instruction: str | None
    dimensions: int | None
    normalize: bool
    precision: Precision
    pooling: PoolingOption
    max_length: int | None
    truncate: Truncate
    chat_template: bool | str | None
    timeout: float | None
    wait: bool
    show_progress: bool


def _check_unicode(name: str, words: object) -> None:
    try:
        _ = words.encode() if isinstance(words, str) else b""
    except UnicodeEncodeError as error:
        message = f"{name} holds a lone surrogate at character {error.start}, which is not text: leave it out"
        raise InvalidTextError(message) from error


def whole_number(name: str, value: object, others: str = "") -> int:
    """Give a number from 1 as Python's own, or refuse it with a ``ValueError`` that says what else may be."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        message = f"{name} must be a whole number from 1{others}, got {value!r}"
        raise ValueError(message)
    return int(value)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a value that is none of the choices, with a ``ValueError`` that names them."""
    if value not in choices:
        message = f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}"
        raise ValueError(message)
