"""A small byte-level BPE tokenizer of Qwen's kind, trained on the README, for GGUF files to carry."""

from functools import cache
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from mlx_qwen_embeddings.checkpoint.gguf.metadata import SPLIT

ENTRIES = 1024
END, TURN_END = "<|endoftext|>", "<|im_end|>"
END_ID, TURN_END_ID = ENTRIES - 3, ENTRIES - 1


@cache
def _spelled() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=END_ID, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    text = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    tokenizer.add_special_tokens([END, "<|im_start|>", TURN_END])
    assert tokenizer.get_vocab_size() == ENTRIES
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, END_ID)])
    return tokenizer.to_str()


def write_bpe(path: Path) -> Path:
    """Write it as ``tokenizer.json``."""
    path.write_text(_spelled(), "utf-8")
    return path
