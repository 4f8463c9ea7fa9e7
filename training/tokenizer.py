"""Step 1: give the student the teacher's vocabulary, so that both read the same tokens, and EOS after every text."""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, processors

from training.config import EOS, SPECIAL_TOKENS

UNKNOWN = "[UNK]"
# They mark the ends of a text for the teacher, or are unused.
LEFT_OUT = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[unused")


def from_teacher(file: Path) -> Tokenizer:
    """Return the student's tokenizer: the teacher's word pieces, then the special tokens.

    Args:
        file: The teacher's `tokenizer.json`.

    Raises:
        ValueError: If the teacher's tokenizer is not WordPiece.
    """
    said = json.loads(file.read_text(encoding="utf-8"))
    if said["model"]["type"] != "WordPiece":
        raise ValueError(
            f"{file} is a {said['model']['type']} tokenizer, and the student shares a teacher's WordPiece alone"
        )
    ordered = sorted(said["model"]["vocab"], key=said["model"]["vocab"].get)
    pieces = [piece for piece in ordered if not piece.startswith(LEFT_OUT)]
    said["model"]["vocab"] = {piece: number for number, piece in enumerate(pieces)}
    said |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    tokenizer = Tokenizer.from_str(json.dumps(said))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    eos = [(EOS, eos_id(tokenizer))]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", pair=f"$A {EOS} $B {EOS}", special_tokens=eos
    )
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


def own_ids(student: Tokenizer, teacher: Tokenizer) -> list[int | None]:
    """Return the student's id for each of the teacher's ids, or None where there is none."""
    pieces = (teacher.id_to_token(number) for number in range(teacher.get_vocab_size()))
    return [None if piece is None else student.token_to_id(piece) for piece in pieces]
