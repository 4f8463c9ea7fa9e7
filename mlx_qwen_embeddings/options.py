"""The options of an embedding call. Adapters, server, command line and every key of stored vectors follow this table.

To add an option, add a field to ``SharedOptions`` and its type to ``SharedArguments``. This module imports neither numpy
nor pydantic, so that ``mlx-qwen --help`` is quick.
"""

# ruff: noqa: FBT003, RUF009 - a call of _option is a dataclass field, and starts with its default

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Literal, TypedDict, get_args, get_origin

from mlx_qwen_embeddings.errors import InvalidTextError

Pooling = Literal["last", "mean", "first", "max"]
"""How the token states of a text become its vector; "first" is the CLS token of BERT."""

PoolingOption = Literal["native", "last", "mean", "first", "max"]

Precision = Literal["float32", "float16", "int8", "uint8", "binary", "ubinary"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

Truncate = Literal["end", "error"]

Effect = Literal["computed", "returned", "refused", "run"]
"""What an option changes, and so which keys it belongs to.

- "computed": what the model computes. Part of every key.
- "returned": what is made of that. Part of every key except the vector cache's, which holds what the model computed.
- "refused": which texts are refused, but no vector. Part of the keys of finished work, such as a bulk job's manifest.
- "run": how the call is run. Part of no key.
"""


@dataclass(frozen=True, slots=True)
class Option:
    """A row of the table.

    Attributes:
        minimum: Smallest whole number allowed; None for other types.
        served: Whether requests to the server may set it.
    """

    name: str
    type: Any
    default: Any
    effect: Effect
    help: str
    minimum: int | None
    served: bool


def _option(default: object, effect: Effect, text: str, *, minimum: int | None = None, served: bool = True) -> Any:
    about = {"effect": effect, "help": text, "minimum": minimum, "served": served and effect != "run"}
    return field(default=default, metadata=about)


@dataclass(kw_only=True)
class SharedOptions:
    """The options that adapters have as fields of the same name."""

    dimensions: int | None = _option(
        None,
        "returned",
        "Number of leading dimensions to keep (Matryoshka); vectors are normalised after the cut. By default all.",
        minimum=1,
    )
    normalize: bool = _option(True, "returned", "Whether vectors have unit length; int8 and uint8 need it.")
    precision: Precision = _option(
        "float32",
        "returned",
        "Type of the components. float16 rounds. int8 and uint8 count steps of a range that depends on the dimensions "
        "alone, so all such vectors can be compared. binary and ubinary keep one bit a component, eight to a byte.",
    )
    pooling: PoolingOption = _option(
        "native",
        "computed",
        "How the token states of a text become its vector; native is what the model was trained with.",
        served=False,
    )
    max_length: int | None = _option(
        None,
        "computed",
        "Most tokens of a text, including prompt and special tokens, up to the model's limit. By default the model's own "
        "setting.",
        minimum=1,
        served=False,
    )
    truncate: Truncate = _option(
        "end", "refused", "What happens to longer texts: end cuts them, and logs a warning once; error refuses them."
    )
    chat_template: bool | str | None = _option(
        None,
        "computed",
        "Whether to render each text as a user's message with the model's own chat template. A string is the Jinja source "
        "of another template.",
        served=False,  # a template is a program
    )
    timeout: float | None = _option(None, "run", "Seconds after which the call gives up. By default it waits.")
    show_progress: bool = _option(False, "run", "Whether to draw a progress bar.")


@dataclass(kw_only=True)
class EmbedOptions(SharedOptions):
    """The keyword arguments of every embedding method."""

    instruction: str | None = _option(
        None,
        "computed",
        "The task in words, put before each text in the form the model was trained on. By default the model's own prompt "
        "for the role; an empty string for no prompt.",
    )
    wait: bool = _option(
        True, "run", "Whether to wait while the queue is full; False raises EngineBusyError instead. A stream always waits."
    )

    def __post_init__(self) -> None:
        """Check what no model could serve. The engine checks what depends on the model."""
        for name, option in OPTIONS.items():
            value = getattr(self, name)
            if get_origin(option.type) is Literal:
                check_choice(name, value, get_args(option.type))
            elif option.type is bool and not isinstance(value, bool):
                raise TypeError(f"{name} must be True or False, got {value!r}")
            elif option.minimum is not None and value is not None:
                # numpy's integers are not JSON, and keys are made of these.
                setattr(self, name, whole_number(name, value, ", or None"))
            elif isinstance(value, str):
                check_unicode(value, name)
        if self.precision in {"int8", "uint8"} and not self.normalize:
            raise ValueError(
                f"precision {self.precision!r} needs vectors of unit length: leave out normalize=False (--no-normalize)"
            )
        if not isinstance(self.instruction, str | None):
            raise TypeError(f"instruction must be a string or None, got {self.instruction!r}")
        if not isinstance(self.chat_template, bool | str | None):
            raise TypeError(f"chat_template must be a string, True, False or None, got {self.chat_template!r}")
        if self.timeout is not None and not (isinstance(self.timeout, Real) and self.timeout > 0):
            raise ValueError(f"timeout must be seconds above 0, or None, got {self.timeout!r}")


class SharedArguments(TypedDict, total=False):
    """``SharedOptions`` as keyword arguments."""

    dimensions: int | None
    normalize: bool
    precision: Precision
    pooling: PoolingOption
    max_length: int | None
    truncate: Truncate
    chat_template: bool | str | None
    timeout: float | None
    show_progress: bool


class CallOptions(SharedArguments, total=False):
    """``EmbedOptions`` as keyword arguments."""

    instruction: str | None
    wait: bool


OPTIONS = {made.name: Option(made.name, made.type, made.default, **made.metadata) for made in fields(EmbedOptions)}
"""Every option by its name."""

EmbedOptions.__doc__ = f"{EmbedOptions.__doc__}\n\nAttributes:\n" + "\n".join(
    f"    {option.name}: {option.help}" for option in OPTIONS.values()
)

OF_THE_RUN = {name for name, option in OPTIONS.items() if option.effect == "run"}
"""Options that belong to no key."""


def key_values(options: EmbedOptions, *effects: Effect) -> dict[str, Any]:
    """Return the options that belong to a key: those with one of these effects and another value than their default.

    A default is left out so that an option that is new in a later version changes no key that was made before.
    """
    given = {name: getattr(options, name) for name, option in OPTIONS.items() if option.effect in effects}
    return {name: value for name, value in given.items() if value != OPTIONS[name].default}


def pydantic_fields(names: Iterable[str], *, null: bool = False) -> dict[str, Any]:
    """Return options as fields for ``pydantic.create_model``.

    Args:
        names: The options to include.
        null: Whether None is allowed for each, as in JSON requests, where it means the default.
    """
    from pydantic import Field  # noqa: PLC0415 - see the top of this module

    made: dict[str, Any] = {}
    for name in names:
        option = OPTIONS[name]
        # Strict: else True, "64" and 64.0 would be whole numbers.
        limits: dict[str, Any] = {} if option.minimum is None else {"ge": option.minimum, "strict": True}
        kind = option.type | None if null else option.type
        made[name] = kind, Field(default=option.default, description=option.help, **limits)
    return made


def check_unicode(text: str, place: str) -> None:
    """Raise ``InvalidTextError``, which names ``place``, for a lone surrogate: it has no UTF-8 form."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidTextError(
            f"{place} holds a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}, which is not "
            "text: clean it with text.encode('utf-8', 'replace').decode()"
        ) from error


def whole_number(name: str, value: object, others: str = "") -> int:
    """Return a number from 1 as Python's own ``int``; raise a ``ValueError`` that names ``others`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be a whole number from 1{others}, got {value!r}")
    return int(value)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise a ``ValueError`` that names the choices when the value is not one of them."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
