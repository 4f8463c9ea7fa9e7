"""Import an optional package, or say how to install it."""

import importlib
from types import ModuleType

from mlx_qwen_embeddings.errors import MissingExtraError


def pip_command(extra: str) -> str:
    """Return the command that installs an extra of this package."""
    return f'pip install "mlx-qwen-embeddings[{extra}]"'


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import and return a module.

    Args:
        module: Its dotted name.
        extra: The extra of this package that installs it.
        purpose: What needs it, for the message: "The LangChain adapter".

    Raises:
        MissingExtraError: When it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs the package {module.split('.', maxsplit=1)[0]!r}: {pip_command(extra)}"
        ) from error
