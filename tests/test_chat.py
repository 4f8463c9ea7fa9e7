"""Chat templates: rendered as transformers does, in a sandbox, and only when they are asked for."""

import numpy as np
import pytest

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.errors import InputTooLongError, InvalidTextError, MissingExtraError
from mlx_qwen_embeddings.prompts import chat_renderer

CHATML = (
    "{% for message in messages %}\n"
    "    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}assistant{% endif %}"
)


def test_a_text_is_the_only_user_message() -> None:
    assert chat_renderer(CHATML)("hello {{ x }}") == "<|im_start|>user\nhello {{ x }}<|im_end|>\n"


def test_blocks_are_trimmed_as_transformers_does() -> None:
    assert chat_renderer("  {% if true %}\nyes\n  {% endif %}\nend")("") == "yes\nend"


def test_the_vector_is_that_of_the_rendered_text(engine: EmbeddingEngine) -> None:
    template = "user says {{ messages[0].content }} now"
    templated = engine.embed_documents(["the tide", "a ship"], chat_template=template)
    np.testing.assert_array_equal(templated, engine.embed_documents(["user says the tide now", "user says a ship now"]))


def test_the_instruction_is_inside_the_message(engine: EmbeddingEngine) -> None:
    template = "<{{ messages[0].content }}>"
    templated = engine.embed_query("the tide", instruction="Find", chat_template=template)
    plain = engine.embed_query("<Instruct: Find\nQuery:the tide>", instruction="")
    np.testing.assert_allclose(templated, plain, atol=1e-6)


@pytest.mark.parametrize("off", [None, False])
def test_without_a_template_texts_are_unchanged(off: None, engine: EmbeddingEngine) -> None:
    np.testing.assert_array_equal(engine.embed_query("a", chat_template=off), engine.embed_query("a"))


def test_a_model_without_a_template_raises_an_error(engine: EmbeddingEngine) -> None:
    with pytest.raises(ValueError, match=r"nano has no chat template: pass one as chat_template='\.\.\.'"):
        engine.embed_query("a", chat_template=True)


def test_a_template_that_fills_the_length_is_refused(engine: EmbeddingEngine) -> None:
    with pytest.raises(InputTooLongError, match="max_length=8 leaves no room"):
        engine.embed_query("a", chat_template="one two three four five six seven eight nine", max_length=8)


@pytest.mark.parametrize("source", ["{% if %}", "{{ ", "{% for %}", "{{ x | no_such_filter }}"])
def test_a_broken_source_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="not valid Jinja source"):
        chat_renderer(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{{ raise_exception('not like this') }}",
        "{{ nothing.here.there }}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content + 1 }}",
        r"{{ '\ud800' }}",
    ],
)
def test_a_template_that_fails_or_breaks_out_is_refused(source: str, engine: EmbeddingEngine) -> None:
    with pytest.raises(InvalidTextError, match="chat_template cannot render"):
        engine.embed_query("a", chat_template=source)


def test_a_template_of_a_wrong_type_is_refused(engine: EmbeddingEngine) -> None:
    with pytest.raises(TypeError, match="chat_template must be a string, True, False or None, got 3"):
        engine.embed_query("a", chat_template=3)  # type: ignore[arg-type]


def test_without_jinja_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"mlx-qwen-embeddings\[chat-template\]"):
        chat_renderer("{{ never rendered before }}")
