"""Ask a database."""

from dataclasses import dataclass
from pathlib import Path

from mlx_qwen_embeddings.search.model import embeddings_for
from mlx_qwen_embeddings.search.store import Store, check, read_record


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found.

    Attributes:
        score: Cosine to the question.
        file: Where it is from.
        start_line: Its first line, in a PDF of the page.
        end_line: Its last line.
        page: Of a PDF, from 1; 0 in other files.
        indent: Columns before the passage on its first line.
        text: The passage.
    """

    score: float
    file: str
    start_line: int
    end_line: int
    page: int
    indent: int
    text: str


def search_folder(
    question: str,
    database: Path,
    *,
    count: int = 5,
    model: str | None = None,
    instruction: str | None = None,
    cache_dir: Path | None = None,
) -> list[Hit]:
    """Find the passages of a database that are nearest to a question, nearest first.

    The model, its revision, the dimensions and the instruction are those that the database was made with.

    Args:
        question: In words.
        database: Folder of the database.
        count: At most so many.
        model: None takes the database's; another name has to mean the same model.
        instruction: None takes the database's; another one is refused.
        cache_dir: Folder of downloaded models; None is the Hugging Face cache.

    Raises:
        FileNotFoundError: When there is no database.
        IndexMismatchError: When the model is another one, or has changed.
    """
    made = read_record(database)
    if made is None:
        message = f"there is no index in {database}: make it with mlx-qwen index FOLDER --db {database}"
        raise FileNotFoundError(message)
    if instruction is not None:
        check(database, made, {"instruction": instruction})
    embeddings = embeddings_for(database, model=model, cache_dir=cache_dir)
    rows = Store(database, made.dimensions).nearest(embeddings.embed_query(question), count)
    return [Hit(**{name: row[name] for name in Hit.__slots__}) for row in rows]
