"""sentence-transformers loads plain folders that ``convert`` wrote, with the same vectors as the engine on the source."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from mlx_qwen_embeddings import EmbeddingEngine
from mlx_qwen_embeddings.tools.convert import convert
from tests.support.bert_reference import BertShape, bert_weights, write_bert
from tests.support.checkpoints import NANO_ENTRIES, Shape, random_weights, write_checkpoint

TEXTS = ["the tide follows the moon.", "over water", "a query : a passage"]


def nano(_: Path) -> str:
    return "nano"


def bare_qwen3(folder: Path) -> str:
    shape = Shape(hidden_size=64, intermediate_size=96, head_dim=32, vocab_size=NANO_ENTRIES)
    return str(write_checkpoint(folder, random_weights(shape), shape.config(tie_word_embeddings=False)))


def bare_bert(folder: Path) -> str:
    shape = BertShape()
    return str(write_bert(folder, bert_weights(shape), shape.config()))


@pytest.mark.parametrize("make", [nano, bare_qwen3, bare_bert], ids=["nano", "bare qwen3", "bare bert"])
def test_sentence_transformers_reads_a_converted_folder(make: Callable[[Path], str], tmp_path: Path) -> None:
    source = make(tmp_path / "source")
    convert(source, tmp_path / "out", dtype="float32", report=False)
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    with EmbeddingEngine(source) as engine:
        np.testing.assert_allclose(model.encode_query(TEXTS), engine.embed_queries(TEXTS), atol=2e-6)
        np.testing.assert_allclose(model.encode_document(TEXTS), engine.embed_documents(TEXTS), atol=2e-6)
