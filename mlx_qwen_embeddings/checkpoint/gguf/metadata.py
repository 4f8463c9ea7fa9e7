"""Turn the metadata of a GGUF file into what ``config.json`` and ``tokenizer.json`` of the same model would say."""

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from mlx_qwen_embeddings.checkpoint.gguf.header import Header
from mlx_qwen_embeddings.errors import ModelLoadError
from mlx_qwen_embeddings.options import Pooling

MODULES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Names of modules in safetensors, by llama.cpp's names."""

SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How Qwen2 and Qwen3 split words; from Qwen3-Embedding's tokenizer.json."""

_KEYS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "max_position_embeddings": "context_length",
}

_POOLING: dict[int, Pooling | None] = {0: None, 1: "mean", 2: "first", 3: "last"}
"""By llama.cpp's ``llama_pooling_type``; 4 is a reranker."""

_BITS = {"Q4_0": 4, "Q4_1": 4, "Q8_0": 8}
"""Bits per weight of the types that stay packed, in groups of 32."""

_SPLIT_NAMES = ("qwen2", "deepseek-r1-qwen")
"""Values of ``tokenizer.ggml.pre`` that stand for ``SPLIT``."""

_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5


def checkpoint_name(name: str) -> str:
    """Turn ``blk.3.attn_q.weight`` into ``layers.3.self_attn.q_proj.weight``; an unknown name stays as it is."""
    parts = name.split(".")
    layer = [f"layers.{parts[1]}"] if parts[0] == "blk" else []
    module, *rest = parts[2:] if layer else parts
    return ".".join([*layer, MODULES[module], *rest]) if module in MODULES else name


def config_of(header: Header) -> dict[str, Any]:
    """Return the configuration.

    Raises:
        ModelLoadError: When the architecture is not served as GGUF, or the file is one part of a split model.
    """
    if header.architecture != "qwen3":
        raise ModelLoadError(
            f"{header.path} holds a model of architecture {header.architecture!r}; as GGUF only qwen3 is served: take the "
            "model's safetensors folder"
        )
    if header.metadata.get("split.count", 1) > 1:
        raise ModelLoadError(f"{header.path} is a piece of a split model: put it together with llama-gguf-split --merge")
    config = {name: header.own(key) for name, key in _KEYS.items()}
    if "token_embd.weight" in header.tensors:
        config["vocab_size"] = header.tensors["token_embd.weight"].shape[0]
    scaling = header.own("rope.scaling.type", "none")
    return {
        **{name: value for name, value in config.items() if value is not None},
        "model_type": header.architecture,
        "attention_bias": "blk.0.attn_q.bias" in header.tensors,
        "rope_scaling": None if scaling == "none" else {"rope_type": scaling},
        "eos_token_id": _end_token_id(header),
        "quantization": {
            checkpoint_name(name).removesuffix(".weight"): {"group_size": 32, "bits": _BITS[tensor.kind]}
            for name, tensor in header.tensors.items()
            if tensor.kind in _BITS
        },
    }


def _end_token_id(header: Header) -> int | None:
    # The eos of Qwen3-Embedding's files is <|im_end|>, which ends a turn of chat. A text has to end with the padding token.
    tokens = header.metadata.get("tokenizer.ggml.tokens", [])
    named = (header.metadata.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("padding", "eos"))
    known = (token for token in named if isinstance(token, int) and token < len(tokens))
    return next((token for token in known if tokens[token] != "<|im_end|>"), None)


def pooling_of(header: Header) -> Pooling | None:
    """Return the pooling that the file names; None when it names none.

    Raises:
        ModelLoadError: When it names one that makes no embedding.
    """
    kind = header.own("pooling_type", 0)
    if kind not in _POOLING:
        raise ModelLoadError(f"{header.path} asks for pooling_type {kind}, which gives no embedding (4 is a reranker)")
    return _POOLING[kind]


def carries_tokenizer(header: Header) -> bool:
    """Return whether the file has a tokenizer that can be rebuilt exactly: byte-level BPE that splits words as Qwen2."""
    metadata = header.metadata
    known = metadata.get("tokenizer.ggml.model") == "gpt2" and metadata.get("tokenizer.ggml.pre") in _SPLIT_NAMES
    return known and bool(metadata.get("tokenizer.ggml.tokens")) and bool(metadata.get("tokenizer.ggml.merges"))


def build_tokenizer(header: Header, end_token_id: int) -> Tokenizer:
    """Rebuild the tokenizer.

    Args:
        header: One for which ``carries_tokenizer`` is true.
        end_token_id: The id that closes every text.

    Raises:
        ModelLoadError: When its parts do not fit together.
    """
    tokens: list[str] = header.metadata["tokenizer.ggml.tokens"]
    types: list[int] = header.metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    merges = [tuple(merge.split(" ")) for merge in header.metadata["tokenizer.ggml.merges"]]
    try:
        if len(types) != len(tokens) or len(set(tokens)) != len(tokens):
            raise ValueError(f"{len(tokens)} tokens ({len(set(tokens))} different), {len(types)} types")  # noqa: TRY301 - as BPE does
        # llama.cpp fills the table up to the number of embeddings with tokens of the type "unused".
        vocabulary = {token: number for number, token in enumerate(tokens) if types[number] != _UNUSED}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ModelLoadError(
            f"{header.path}: its tokenizer cannot be rebuilt ({error}): download it again, or put tokenizer.json beside it"
        ) from error
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A end", pair="$A $B end", special_tokens=[("end", end_token_id)]
    )
    for kind in (_CONTROL, _USER_DEFINED):
        added = [token for token, number in vocabulary.items() if types[number] == kind]
        tokenizer.add_tokens([AddedToken(token, normalized=False, special=kind == _CONTROL) for token in added])
    return tokenizer


def check_sibling(header: Header, tokenizer: Tokenizer) -> None:
    """Check that the ``tokenizer.json`` beside the file, used when the file's own cannot be rebuilt, has the same tokens.

    Raises:
        ModelLoadError: When one differs.
    """
    tokens: list[str] = header.metadata.get("tokenizer.ggml.tokens", [])
    for number, token in enumerate(tokens[: tokenizer.get_vocab_size()]):
        if tokenizer.id_to_token(number) != token:
            raise ModelLoadError(
                f"{header.path}: the tokenizer.json beside it belongs to another model: its token {number} is "
                f"{tokenizer.id_to_token(number)!r}, the file's is {token!r}"
            )
