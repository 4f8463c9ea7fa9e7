"""Prompts, letter by letter as the model card of Qwen3-Embedding writes them."""

import pytest

from mlx_qwen_embeddings.models import FAMILIES
from mlx_qwen_embeddings.prompts import Role, prompt_for

QWEN3 = FAMILIES["qwen3"]

# https://huggingface.co/Qwen/Qwen3-Embedding-0.6B: get_detailed_instruct, and config_sentence_transformers.json.
CARD = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"


def prompt(role: Role, instruction: str | None) -> str:
    return prompt_for(role, instruction, dict(QWEN3.prompts), QWEN3.template)


def test_a_query_gets_the_cards_prompt_and_a_document_none() -> None:
    assert prompt("query", None) == CARD
    assert prompt("document", None) == ""


@pytest.mark.parametrize("role", ["query", "document"])
def test_an_instruction_replaces_it_for_both(role: Role) -> None:
    assert prompt(role, "Find the law") == "Instruct: Find the law\nQuery:"


@pytest.mark.parametrize("role", ["query", "document"])
def test_an_empty_instruction_is_no_prompt(role: Role) -> None:
    assert prompt(role, "") == ""


@pytest.mark.parametrize("odd", ["{instruction}", "{0} {}", "a\nb", "  spaced ", "100 %s", "\\n"])
def test_an_instruction_is_never_edited(odd: str) -> None:
    assert prompt("query", odd) == f"Instruct: {odd}\nQuery:"


def test_a_models_own_prompts_override_its_familys() -> None:
    assert prompt_for("query", None, {"query": "search: ", "document": "text: "}, QWEN3.template) == "search: "
    assert prompt_for("document", None, {"query": "search: ", "document": "text: "}, QWEN3.template) == "text: "
