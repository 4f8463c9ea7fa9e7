"""Prompts that models were trained with, and chat templates, which run in a sandbox: they come from model folders."""

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

from mlx_qwen_embeddings._extras import require
from mlx_qwen_embeddings.errors import InvalidTextError

Role = Literal["query", "document"]

QWEN3_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
"""The default task of Qwen3-Embedding's model card."""

QWEN3_TEMPLATE = "Instruct: {instruction}\nQuery:"
"""Qwen3-Embedding's own form: no space after ``Query:``, since a space changes the tokens."""

QWEN3_PROMPT = QWEN3_TEMPLATE.format(instruction=QWEN3_INSTRUCTION)

PASSAGES_PROMPTS = {"query": "Represent this sentence for searching relevant passages: "}
"""What the model cards of bge-*-en-v1.5, mxbai-embed-large-v1 and snowflake-arctic-embed ask for in retrieval."""

E5_PROMPTS = {"query": "query: ", "document": "passage: "}
"""What the model cards of e5-*-v2 ask for: these models were never trained on texts without a prefix."""


def prompt_for(role: Role, instruction: str | None, defaults: dict[str, str], template: str) -> str:
    """Return the text to put before each input.

    Args:
        role: Whether the texts are queries or documents.
        instruction: The task in words; None takes the model's own prompt for the role, "" means no prompt.
        defaults: The model's own prompts by role, from its configuration or its card.
        template: How this model writes an instruction, with ``{instruction}`` in it.
    """
    if instruction is None:
        return defaults.get(role, "")
    # Not str.format: an instruction may contain braces.
    return template.replace("{instruction}", instruction) if instruction else ""


@lru_cache(maxsize=8)
def chat_renderer(template: str) -> Callable[[str], str]:
    """Return a function that renders a text as the only user message of a conversation.

    Args:
        template: Jinja source, as in ``tokenizer_config.json``; it gets ``messages`` and ``add_generation_prompt``.

    Raises:
        MissingExtraError: When jinja2 is not installed.
        ValueError: When the source is not a valid template. The returned function raises ``InvalidTextError``, which is a
            ``ValueError``, too, when it cannot render a text.
    """
    jinja2 = require("jinja2", "chat-template", "chat_template")
    sandbox = require("jinja2.sandbox", "chat-template", "chat_template")
    environment = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _raise
    try:
        compiled = environment.from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"chat_template is not valid Jinja source: {error}") from error

    def render(text: str) -> str:
        try:
            rendered = str(compiled.render(messages=[{"role": "user", "content": text}], add_generation_prompt=False))
            rendered.encode()
        except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise InvalidTextError(f"chat_template cannot render {text[:60]!r}: {error}") from error
        return rendered

    return render


def _raise(message: str) -> None:
    """Replace ``raise_exception``, which chat templates call on bad input."""
    raise ValueError(message)
