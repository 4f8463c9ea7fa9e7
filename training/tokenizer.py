"""Step 1: a lower-casing byte-level BPE tokenizer that ends every text in EOS, as Qwen3-Embedding's does."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from training.config import EOS, SPECIAL_TOKENS, VOCAB_SIZE

# Qwen's own split pattern (config of the Qwen2 and Qwen3 tokenizers).
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train(lines: Iterable[str], vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """Learn the merges, then add the special tokens behind them and the post-processor that appends EOS.

    Args:
        lines: Texts with their line ends.
        vocab_size: Entries in all, special tokens included. A small corpus may give fewer.

    Raises:
        ValueError: If `vocab_size` has no room for the 256 bytes and the special tokens.
    """
    merges_and_bytes = vocab_size - len(SPECIAL_TOKENS)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if merges_and_bytes < len(alphabet):
        raise ValueError(f"vocab_size={vocab_size} is too small: give at least {len(alphabet) + len(SPECIAL_TOKENS)}")
    tokenizer = _untrained()
    trainer = trainers.BpeTrainer(
        vocab_size=merges_and_bytes, initial_alphabet=alphabet, min_frequency=2, show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.post_processor = _append_eos(eos_id(tokenizer))
    return tokenizer


def eos_id(tokenizer: Tokenizer) -> int:
    """Return the id of the token that ends every text.

    Raises:
        ValueError: If the tokenizer has no such token.
    """
    token = tokenizer.token_to_id(EOS)
    if token is None:
        raise ValueError(f"this tokenizer has no {EOS}: make it with the tokenizer step")
    return int(token)


def _untrained() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _append_eos(eos: int) -> processors.Sequence:
    template = processors.TemplateProcessing(single=f"$A {EOS}", pair=f"$A {EOS} $B {EOS}", special_tokens=[(EOS, eos)])
    return processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
