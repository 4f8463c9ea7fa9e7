"""How the embedded model `nano` is made: tokenizer, teacher, student, pack. See training/README.md."""
