"""Files cut into passages, by a splitter that knows the file's language."""

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from mlx_qwen_embeddings._extras import require

LARGEST = 8 * 2**20
"""Bytes of a text file; larger ones are data."""


def find(path: Path, pattern: str | None, limit: int | None) -> list[Path]:
    """Give the files below a folder in the order of their names, or the one file that is named.

    Hidden files and folders are left out, and without a pattern what does not look like text, code or PDF.

    Args:
        path: Folder or file.
        pattern: What a file's path below the folder has to match: "*.md", "docs/**/*.txt".
        limit: At most so many; None takes all.

    Raises:
        FileNotFoundError: When there is no such folder or file.
    """
    if not path.exists():
        message = f"there is no folder or file {path}"
        raise FileNotFoundError(message)
    if path.is_file():
        return [path.resolve()]
    return list(islice(_walk(path.resolve(), pattern), limit))


def _walk(root: Path, pattern: str | None) -> Iterator[Path]:
    for path in sorted(root.rglob(pattern or "*")):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        known = pattern is not None or path.suffix.lower() in LANGUAGES.keys() | PLAIN
        if not hidden and known and _may_be_text(path):
            yield path


def _may_be_text(path: Path) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:  # a link to nowhere
        return False
    except OSError:  # whoever reads it learns why it cannot be read
        return True
    return stat.S_ISREG(status.st_mode) and (path.suffix.lower() == ".pdf" or status.st_size <= LARGEST)


LANGUAGES = {
    ".c": "c",
    ".cc": "cpp",
    ".cpp": "cpp",
    ".cs": "csharp",
    ".ex": "elixir",
    ".go": "go",
    ".h": "c",
    ".hpp": "cpp",
    ".hs": "haskell",
    ".html": "html",
    ".java": "java",
    ".js": "js",
    ".jsx": "js",
    ".kt": "kotlin",
    ".lua": "lua",
    ".md": "markdown",
    ".php": "php",
    ".pl": "perl",
    ".proto": "proto",
    ".ps1": "powershell",
    ".py": "python",
    ".pyi": "python",
    ".rb": "ruby",
    ".rs": "rust",
    ".rst": "rst",
    ".scala": "scala",
    ".sol": "sol",
    ".swift": "swift",
    ".tex": "latex",
    ".ts": "ts",
    ".tsx": "ts",
}
"""What the splitter knows, by the end of a file's name."""

PLAIN = {".cfg", ".css", ".ini", ".json", ".pdf", ".sh", ".sql", ".toml", ".txt", ".yaml", ".yml"}
"""What is read besides."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a file.

    Attributes:
        text: As it stands in the file.
        start_line: Its first line, from 1; in a PDF of the page.
        end_line: Its last line.
        page: Of a PDF, from 1; 0 in other files.
        indent: Columns before it on its first line, which is stripped.
    """

    text: str
    start_line: int
    end_line: int
    page: int = 0
    indent: int = 0


class Splitter:
    """Cuts texts at the joints of their language into passages of at most so many tokens."""

    def __init__(self, count: Callable[[str], int], tokens: int, overlap: int) -> None:
        """Prepare.

        Args:
            count: Gives the tokens of a text.
            tokens: Most tokens of a passage.
            overlap: Tokens that a passage repeats of the one before it, at most.
        """
        self._count, self._tokens, self._overlap = count, tokens, overlap

    def split(self, path: Path) -> list[Passage]:
        """Cut a file.

        Raises:
            ValueError: When it is no text, or no PDF that can be read.
        """
        pages = enumerate(_pdf_pages(path), 1) if path.suffix.lower() == ".pdf" else [(0, _text(path))]
        return [passage for page, text in pages for passage in self._pieces(text, path.suffix.lower(), page)]

    def _pieces(self, text: str, suffix: str, page: int) -> Iterator[Passage]:
        start = -1
        for piece in self._splitter(suffix).split_text(text):
            # Two passages never begin at one place, so one that repeats an earlier one is told from it.
            start = max(text.find(piece, start + 1), 0)
            first = text.count("\n", 0, start) + 1
            before = text[text.rfind("\n", 0, start) + 1 : start].expandtabs(4)
            yield Passage(piece, first, first + piece.count("\n"), page, 0 if before.strip() else len(before))

    def _splitter(self, suffix: str) -> Any:
        kind = require("langchain_text_splitters", "search", "mlx-qwen index").RecursiveCharacterTextSplitter
        options = {"chunk_size": self._tokens, "chunk_overlap": self._overlap, "length_function": self._count}
        if suffix in LANGUAGES:
            return kind.from_language(LANGUAGES[suffix], **options)
        return kind(**options)


def _text(path: Path) -> str:
    content = path.read_bytes()
    if b"\0" in content:
        message = f"{path} is no text: it holds a zero byte"
        raise ValueError(message)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{path} is not UTF-8 ({error.reason} at byte {error.start})"
        raise ValueError(message) from error


def _pdf_pages(path: Path) -> Iterator[str]:
    pypdf = require("pypdf", "search", "A PDF file")
    try:
        for page in pypdf.PdfReader(path).pages:
            # What is no letter has no code, and comes as half of a surrogate pair.
            yield page.extract_text().encode("utf-8", "replace").decode()
    except Exception as error:  # pypdf says of itself that any may come of a broken file, and others of an encrypted one
        message = f"{path} cannot be read as PDF: {str(error) or type(error).__name__}"
        raise ValueError(message) from error
