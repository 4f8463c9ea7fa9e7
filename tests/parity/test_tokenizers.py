"""The real tokenizer of Qwen3-Embedding against transformers: prose, code, many scripts, and truncation."""

import inspect
import json
import textwrap
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from mlx_qwen_embeddings.checkpoint.files import ModelFiles
from mlx_qwen_embeddings.prompts import QWEN3_PROMPT
from mlx_qwen_embeddings.tokenization import TextTokenizer
from tests.parity.prose import sentences
from tests.support.qwen3_tokenizer import write_tokenizer

SCRIPTS = [
    "引力是使两个物体相互吸引的力。中国的首都是北京。人口两千多万。",
    "الجاذبية هي القوة التي تجذب جسمين كل منهما نحو الآخر.",
    "गुरुत्वाकर्षण वह बल है जो दो पिंडों को एक दूसरे की ओर खींचता है।",
    "重力とは、物体が互いに引き合う力である。 중력은 물체가 서로 끌어당기는 힘이다.",
    "Гравитация, ბუნება, ἀρχή, שָׁלוֹם, ไทย, tiếng Việt",
    "🙂👩\u200d👩\u200d👧🏳️\u200d🌈🇨🇳 e\u0301 \u00e9 \ufb01 ½ \u202etext\u202c \ufeff",
    "<|im_start|>user\n<think>no</think><|im_end|><|endoftext|>",
    "\t\r\n \u00a0\u3000\0",
]
CODE = [textwrap.dedent(inspect.getsource(thing)) for thing in (textwrap, json.dumps, json.JSONDecoder)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen3")
    write_tokenizer(folder)
    # The published values, without the table of added tokens, which tokenizer.json has too.
    said = {
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "add_prefix_space": False,
        "model_max_length": 131_072,
        "tokenizer_class": "Qwen2Tokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    config = {"model_type": "qwen3", "vocab_size": 151_669, "hidden_size": 8, "max_position_embeddings": 32_768}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def ours(folder: Path) -> TextTokenizer:
    return ModelFiles(folder).tokenizer()


TEXTS = [*SCRIPTS, *CODE, *islice(sentences(), 3000)]


@pytest.mark.parametrize("prompt", ["", QWEN3_PROMPT], ids=["document", "query"])
@pytest.mark.parametrize("max_length", [4096, 40, 24])
def test_ids(prompt: str, max_length: int, ours: TextTokenizer, theirs: Any) -> None:
    texts = [prompt + text for text in TEXTS]
    found = [tokens.ids.tolist() for tokens in ours.encode(texts, max_length=max_length)]
    assert found == theirs(texts, truncation=True, max_length=max_length)["input_ids"]
    assert {row[-1] for row in found} == {151_643}
    assert max(map(len, found)) <= max_length
