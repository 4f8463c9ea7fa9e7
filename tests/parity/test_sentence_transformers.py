"""From text to unit vector against sentence-transformers, on nano unpacked to float32."""

import json
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.prompts import QWEN3_PROMPT
from tests.support.checkpoints import write_unpacked

TEXTS = [
    "How do I cook pasta?",
    "",
    " two  spaces ",
    "line\nbreak\ttab",
    "naïve café",
    "日本語",
    "🍝 emoji",
    "nul \0 byte",
    "x " * 3000,
]

SHORT = TEXTS[:-1]
"""For tests in which a text of the maximum length would only take time."""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_unpacked(tmp_path_factory.mktemp("nano") / "fp32")


@pytest.mark.parametrize("prompt", ["", QWEN3_PROMPT])
@pytest.mark.parametrize("dimensions", [None, 64])
def test_nano_equals_sentence_transformers(unpacked: Path, prompt: str, dimensions: int | None) -> None:
    theirs = SentenceTransformer(str(unpacked), device="cpu", truncate_dim=dimensions)
    expected = theirs.encode(TEXTS, prompt=prompt, normalize_embeddings=True, convert_to_numpy=True)
    instruction = prompt.removeprefix("Instruct: ").removesuffix("\nQuery:")
    for model in (str(unpacked), "nano"):
        with EmbeddingEngine(model) as engine:
            found = engine.embed_queries(TEXTS, instruction=instruction, dimensions=dimensions)
        assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize(
    "prompts",
    [
        {"query": QWEN3_PROMPT, "document": ""},
        {"query": "query: ", "document": "passage: "},
        {"query": "", "document": "Text: "},
    ],
    ids=str,
)
@pytest.mark.parametrize("pooling", ["lasttoken", "mean", "cls", "max"])
def test_prompts_and_pooling_come_from_the_folder(tmp_path: Path, prompts: dict[str, str], pooling: str) -> None:
    folder = write_unpacked(tmp_path)
    said = json.loads((folder / "config_sentence_transformers.json").read_text())
    (folder / "config_sentence_transformers.json").write_text(json.dumps(said | {"prompts": prompts}))
    place = folder / "1_Pooling" / "config.json"
    modes = {f"pooling_mode_{name}": name == pooling for name in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")}
    modes |= {"pooling_mode_cls_token": pooling == "cls"}
    modes |= {f"pooling_mode_{pooling}_tokens": True} if pooling in {"mean", "max"} else {}
    place.write_text(json.dumps({"word_embedding_dimension": 384, "include_prompt": True} | modes))
    theirs = SentenceTransformer(str(folder), device="cpu")
    with EmbeddingEngine(str(folder)) as engine:
        queries, documents = engine.embed_queries(SHORT), engine.embed_documents(SHORT)
    assert np.abs(queries - theirs.encode_query(SHORT, normalize_embeddings=True)).max() < 1e-5
    assert np.abs(documents - theirs.encode_document(SHORT, normalize_embeddings=True)).max() < 1e-5


def test_chats_equal_the_template_of_transformers(unpacked: Path) -> None:
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
    theirs = SentenceTransformer(str(unpacked), device="cpu")
    rendered = [
        theirs.tokenizer.apply_chat_template([{"role": "user", "content": text}], chat_template=template, tokenize=False)
        for text in SHORT
    ]
    with EmbeddingEngine(str(unpacked)) as engine:
        found = engine.embed_documents(SHORT, chat_template=template)
    assert np.abs(found - theirs.encode(rendered, normalize_embeddings=True)).max() < 1e-5
