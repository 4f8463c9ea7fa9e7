"""The one place that writes a prompt in front of a text."""

from typing import Literal

Role = Literal["query", "document"]

QWEN3_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
"""The default task of Qwen3-Embedding's model card."""

QWEN3_TEMPLATE = "Instruct: {instruction}\nQuery:"
"""Qwen3-Embedding's own form: no space after ``Query:``, since a space changes the tokens."""

QWEN3_PROMPT = QWEN3_TEMPLATE.format(instruction=QWEN3_INSTRUCTION)

PASSAGES_PROMPTS = {"query": "Represent this sentence for searching relevant passages: "}
"""What the cards of bge-*-en-v1.5, mxbai-embed-large-v1 and snowflake-arctic-embed ask for in retrieval."""

E5_PROMPTS = {"query": "query: ", "document": "passage: "}
"""What the cards of e5-*-v2 ask for: these models were never trained on a text without a prefix."""


def prompt_for(role: Role, instruction: str | None, defaults: dict[str, str], template: str) -> str:
    """Give the text to put in front of each input.

    Args:
        role: Whether the texts are queries or documents.
        instruction: The task in words; None takes the model's own prompt for the role, "" means no prompt.
        defaults: The model's own prompts by role, from its configuration or its card.
        template: How this model writes an instruction, with ``{instruction}`` in it.
    """
    if instruction is None:
        return defaults.get(role, "")
    # Not str.format: an instruction may itself hold braces.
    return template.replace("{instruction}", instruction) if instruction else ""
