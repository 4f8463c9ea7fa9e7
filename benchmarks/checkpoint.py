"""A checkpoint of the 0.6B's shape with seeded random weights in float32, which every peer can load."""

import json
from itertools import chain
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.parity.make_large import config, parts
from tests.support.qwen3_tokenizer import write_tokenizer

CONFIG = config("0.6B") | {"torch_dtype": "float32", "eos_token_id": 151_643}
PROMPT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"

FILES = {
    "config.json": CONFIG,
    "tokenizer_config.json": {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 131_072,
    },
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ],
    "config_sentence_transformers.json": {"prompts": {"query": PROMPT, "document": ""}, "similarity_fn_name": "cosine"},
    "1_Pooling/config.json": {"word_embedding_dimension": 1024, "pooling_mode_lasttoken": True, "include_prompt": True},
}


def make(folder: Path, prefix: str = "") -> Path:
    """Write the checkpoint unless it exists, and return its folder.

    Args:
        folder: Folder to write; 2.4 GB.
        prefix: Put in front of the names. mlx-lm reads only "model.".
    """
    if (folder / "model.safetensors").exists():
        return folder
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    (folder / "2_Normalize").mkdir(exist_ok=True)
    for name, content in FILES.items():
        (folder / name).write_text(json.dumps(content))
    write_tokenizer(folder)
    rng = np.random.default_rng(0)
    arrays = {}
    for name, shape in chain.from_iterable(part.items() for part in parts("0.6B")):
        noise = rng.standard_normal(shape, dtype=np.float32)
        # The scale of matrices keeps the size of activations.
        arrays[prefix + name] = 1 + 0.1 * noise if len(shape) == 1 else noise / np.float32(np.sqrt(shape[1]))
    save_file(arrays, folder / "partial.safetensors", metadata={"format": "pt"})
    (folder / "partial.safetensors").rename(folder / "model.safetensors")
    return folder
