"""From a file's name to its rows."""

from pathlib import Path

from mlx_qwen_embeddings.bulk.parquet import ParquetSource
from mlx_qwen_embeddings.bulk.sources import CsvSource, FileSource, JsonLinesSource, LineSource, TsvSource

KINDS: dict[str, type[FileSource]] = {
    ".jsonl": JsonLinesSource,
    ".ndjson": JsonLinesSource,
    ".csv": CsvSource,
    ".tsv": TsvSource,
    ".parquet": ParquetSource,
    ".pq": ParquetSource,
}


def open_source(path: Path, column: str = "text") -> FileSource:
    """Read a file as the end of its name says; one that says nothing is a text a line.

    Args:
        path: The file.
        column: Which column holds the texts.

    Raises:
        ValueError: For a JSON file that is no JSON Lines.
    """
    suffix = path.suffix.lower()
    if suffix == ".json":
        message = f"{path}: rows are read from JSON Lines, one object a line: jq -c '.[]' {path} > {path}l makes it"
        raise ValueError(message)
    return KINDS.get(suffix, LineSource)(path, column)
