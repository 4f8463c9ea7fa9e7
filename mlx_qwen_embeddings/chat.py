"""Texts rendered with a chat template, in a sandbox: a template comes from the model's folder."""

from collections.abc import Callable
from functools import lru_cache

from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings.errors import InvalidTextError


@lru_cache(maxsize=8)
def chat_renderer(template: str) -> Callable[[str], str]:
    """Give a function that renders a text as the one user's turn of a conversation.

    Args:
        template: Jinja source, as in ``tokenizer_config.json``; it gets ``messages`` and ``add_generation_prompt``.

    Raises:
        MissingExtraError: When jinja2 is not installed.
        ValueError: When the source is no valid template. The function raises ``InvalidTextError``, which is one too, when
            a text cannot be rendered.
    """
    jinja2 = require("jinja2", "chat-template", "chat_template")
    sandbox = require("jinja2.sandbox", "chat-template", "chat_template")
    environment = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _raise
    try:
        compiled = environment.from_string(template)
    except jinja2.TemplateSyntaxError as error:
        message = f"chat_template is no valid Jinja source: {error}"
        raise ValueError(message) from error

    def render(text: str) -> str:
        try:
            rendered = str(compiled.render(messages=[{"role": "user", "content": text}], add_generation_prompt=False))
            rendered.encode()
        except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            message = f"chat_template cannot render {text[:60]!r}: {error}"
            raise InvalidTextError(message) from error
        return rendered

    return render


def _raise(message: str) -> None:
    """Stand for the function of that name that chat templates call on bad input."""
    raise ValueError(message)
