"""Qwen3-Embedding's real tokenizer: end token, cuts, the end of the prompt, and scripts from all over.

The ids were taken down from transformers 5.23.0 (tokenizers 0.23.3) with the published files of Qwen/Qwen3-Embedding-0.6B.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.compute.batching import shared_prefix
from mlx_qwen_embeddings.prompts import QWEN3_PROMPT
from mlx_qwen_embeddings.tokenization import TextTokenizer
from tests.support.checkpoints import Shape, random_weights, write_checkpoint
from tests.support.qwen3_tokenizer import write_tokenizer
from tests.support.references import pooled, qwen3

END = 151_643
END_OF_TURN = 151_645
COLON = 25
BEFORE_COLON = [641, 1235, 25, 16246, 264, 3482, 2711, 3239, 11, 17179, 9760, 46769, 429, 4226, 279, 3239, 198, 2859]
"""``Instruct: ...\\nQuery``"""

SHAPE = Shape(vocab_size=151_669, hidden_size=16, intermediate_size=24, head_dim=8)
WEIGHTS = random_weights(SHAPE)

TEXTS = {
    "": [],
    "The capital of China is Beijing.": [785, 6722, 315, 5616, 374, 26549, 13],
    "中国的首都是北京。": [105538, 59975, 100132, 68990, 1773],
    "日本語 한국어": [101059, 102819, 130092, 31079],
    "الجاذبية هي قوة": [31382, 33090, 125908, 129636, 128420, 77703, 126556],
    "गुरुत्वाकर्षण क्या है?": [
        *(145959, 72653, 44179, 72653, 79238, 30484, 113, 31411, 243, 44179, 30484, 115, 146548, 47809, 30484, 107),
        *(23868, 84310, 12619, 230, 30),
    ],
    "def f(x):\n    return x\t** 2  # ok\r\n": [
        *(750, 282, 2075, 982, 262, 470, 856, 197, 334, 220, 17, 220, 671, 5394, 319)
    ],
    "🙂👩\u200d👩\u200d👧 ok": [145080, 145233, 378, 235, 145233, 378, 235, 145665, 5394],
    "e\u0301 \u00e9": [963, 3958],  # composed and decomposed are one to it
    "1234567": [16, 17, 18, 19, 20, 21, 22],
    "don't DON'T": [15007, 944, 44273, 17323],
    "  two  spaces ": [220, 1378, 220, 12621, 220],
    "nul \0 byte": [77, 360, 220, 188, 4922],
    "<think>x</think>": [151667, 87, 151668],
    "<|endoftext|>": [END],
}

QUERIES = {
    # The colon stays by itself,
    "what is gravity": [COLON, 12555, 374, 23249],
    "import numpy": [COLON, 474, 8591],
    " spaced": [COLON, 63828],
    "重力": [COLON, 29258, 47534],
    "هل": [COLON, 125750],
    "123": [COLON, 16, 17, 18],
    "😀": [COLON, 141334],
    "": [COLON],
    # or becomes one token with what follows.
    "string": [22423],
    "self": [10899],
    "name of": [57520, 315],
    "http://x.org": [69459, 1110, 87, 2659],
    "//x": [1110, 87],
    "\nline": [510, 1056],
    "?": [76475],
    ":": [486],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("qwen3"), WEIGHTS, SHAPE.config())
    write_tokenizer(folder)
    said = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "model_max_length": 131_072}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> TextTokenizer:
    return ModelFiles(folder).tokenizer()


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[EmbeddingEngine]:
    with EmbeddingEngine(str(folder), cache_bytes=0) as engine:
        yield engine


def ids(tokenizer: TextTokenizer, text: str, max_length: int = 2048) -> list[int]:
    found: list[int] = tokenizer.encode([text], max_length=max_length)[0].ids.tolist()
    return found


def reference(rows: list[list[int]]) -> np.ndarray:
    return np.stack([pooled(qwen3(WEIGHTS, SHAPE.config(), row), "last") for row in rows])


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_transformers_with_one_end_token(text: str, tokenizer: TextTokenizer) -> None:
    assert ids(tokenizer, text) == [*TEXTS[text], END]


def test_it_fits_the_model_and_needs_no_repair(tokenizer: TextTokenizer) -> None:
    assert (tokenizer.prefix, tokenizer.suffix, tokenizer.repaired) == ((), (END,), False)
    assert tokenizer.vocabulary_size == 151_669


@pytest.mark.parametrize("text", [text for text, tokens in TEXTS.items() if len(tokens) > 4])
def test_the_end_token_survives_every_cut(text: str, tokenizer: TextTokenizer) -> None:
    for kept in range(1, len(TEXTS[text])):
        assert ids(tokenizer, text, kept + 1) == [*TEXTS[text][:kept], END]
    assert tokenizer.encode([text], max_length=2)[0].length == len(TEXTS[text]) + 1


def test_a_lost_end_token_is_the_padding_token_not_the_end_of_a_turn(folder: Path, tmp_path: Path) -> None:
    said = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    said["post_processor"] = said["post_processor"]["processors"][0]  # as Qwen3's own, and old conversions, have it
    (tmp_path / "tokenizer.json").write_text(json.dumps(said), "utf-8")
    for name in ("config.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    mended = ModelFiles(tmp_path).tokenizer()
    assert mended.repaired
    for text, tokens in TEXTS.items():
        assert ids(mended, text) == [*tokens, END]
        assert END_OF_TURN not in ids(mended, text)
    assert ids(mended, "The capital of China is Beijing.", 3) == [785, 6722, END]


@pytest.mark.parametrize("query", QUERIES)
def test_the_end_of_the_prompt(query: str, tokenizer: TextTokenizer) -> None:
    row = tokenizer.encode([QWEN3_PROMPT + query], max_length=2048)[0].ids
    assert row.tolist() == [*BEFORE_COLON, *QUERIES[query], END]
    prompt = np.array([*BEFORE_COLON, COLON], dtype=np.int32)
    shared = len(BEFORE_COLON) + (QUERIES[query][0] == COLON)
    assert shared_prefix([row], prompt) == shared


def test_vectors_of_queries_are_right_whether_or_not_the_colon_merges(engine: EmbeddingEngine) -> None:
    wanted = reference([[*BEFORE_COLON, *tokens, END] for tokens in QUERIES.values()])
    together = engine.embed_queries(QUERIES)  # one batch: the tokens of the prompt that all of them share are computed once
    alone = np.concatenate([engine.embed_queries([query]) for query in QUERIES])
    np.testing.assert_allclose(together, wanted, atol=1e-5)
    np.testing.assert_allclose(alone, wanted, atol=1e-5)
    # The vectors are far enough apart to show a prompt that was cut short.
    apart = np.abs(wanted[:, None] - wanted[None]).max(axis=-1)
    assert apart[~np.eye(len(wanted), dtype=bool)].min() > 1e-3


def test_vectors_of_documents_have_no_prompt(engine: EmbeddingEngine) -> None:
    wanted = reference([[*tokens, END] for tokens in TEXTS.values()])
    np.testing.assert_allclose(engine.embed_documents(TEXTS), wanted, atol=1e-5)
    assert engine.count_tokens(list(TEXTS)) == [len(tokens) + 1 for tokens in TEXTS.values()]
    assert engine.count_tokens(["string"], role="query") == [len(BEFORE_COLON) + 2]


def test_a_query_cut_inside_its_text_keeps_prompt_and_end(engine: EmbeddingEngine) -> None:
    row = [*BEFORE_COLON, COLON, 12555, END]
    np.testing.assert_allclose(
        engine.embed_query("what is gravity", max_length=len(row))[None], reference([row]), atol=1e-5
    )
