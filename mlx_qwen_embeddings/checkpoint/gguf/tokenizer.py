"""The tokenizer that a GGUF file carries: byte-level BPE with Qwen2's way to split words."""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from mlx_qwen_embeddings.checkpoint.gguf.header import Header
from mlx_qwen_embeddings.errors import ModelLoadError

SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""From Qwen3-Embedding's tokenizer.json."""

SPLITS = ("qwen2", "deepseek-r1-qwen")
"""Names in ``tokenizer.ggml.pre`` that stand for it."""

_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5


def carries_tokenizer(header: Header) -> bool:
    """Whether the file has a tokenizer that can be rebuilt exactly."""
    said = header.metadata
    known = said.get("tokenizer.ggml.model") == "gpt2" and said.get("tokenizer.ggml.pre") in SPLITS
    return known and bool(said.get("tokenizer.ggml.tokens")) and bool(said.get("tokenizer.ggml.merges"))


def build_tokenizer(header: Header, end_token_id: int) -> Tokenizer:
    """Rebuild the tokenizer.

    Args:
        header: It carries one, see ``carries_tokenizer``.
        end_token_id: The id that closes every text.

    Raises:
        ModelLoadError: When its parts do not fit together.
    """
    said = header.metadata
    tokens: list[str] = said["tokenizer.ggml.tokens"]
    types: list[int] = said.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    if len(types) != len(tokens) or len(set(tokens)) != len(tokens):
        raise ModelLoadError(_broken(header, f"{len(tokens)} tokens ({len(set(tokens))} different), {len(types)} types"))
    merges = [tuple(merge.split(" ")) for merge in said["tokenizer.ggml.merges"]]
    # llama.cpp fills the table up to the number of embeddings with tokens of the type "unused".
    vocabulary = {token: number for number, token in enumerate(tokens) if types[number] != _UNUSED}
    try:
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ModelLoadError(_broken(header, str(error))) from error
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A end", pair="$A $B end", special_tokens=[("end", end_token_id)]
    )
    for kind in (_CONTROL, _USER_DEFINED):
        added = [token for token, number in vocabulary.items() if types[number] == kind]
        tokenizer.add_tokens([AddedToken(token, normalized=False, special=kind == _CONTROL) for token in added])
    return tokenizer


def check_sibling(header: Header, tokenizer: Tokenizer) -> None:
    """Make sure that the ``tokenizer.json`` beside the file, used because its own cannot be rebuilt, has the same tokens.

    Raises:
        ModelLoadError: When one differs.
    """
    tokens: list[str] = header.metadata.get("tokenizer.ggml.tokens", [])
    for number, token in enumerate(tokens[: tokenizer.get_vocab_size()]):
        if tokenizer.id_to_token(number) != token:
            message = (
                f"{header.path}: the tokenizer.json beside it belongs to another model: its token {number} is "
                f"{tokenizer.id_to_token(number)!r}, the file's is {token!r}"
            )
            raise ModelLoadError(message)


def _broken(header: Header, reason: str) -> str:
    return f"{header.path}: its tokenizer cannot be rebuilt ({reason}): download it again, or put tokenizer.json beside it"
