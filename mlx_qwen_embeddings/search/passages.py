"""Find files, and split them into passages at places that suit their language."""

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from mlx_qwen_embeddings._extras import require

MAX_TEXT_BYTES = 8 * 2**20
"""Larger text files are skipped: they usually hold data, not prose or code."""


def find_files(path: Path, pattern: str | None, limit: int | None) -> list[Path]:
    """Return the files in a folder, sorted by name, or the file itself.

    Hidden files and folders are skipped. Without a pattern, so are files whose suffix is not one of text, code or PDF.

    Args:
        path: Folder or file.
        pattern: Glob pattern for paths in the folder, such as "*.md" or "docs/**/*.txt".
        limit: Most files to return; None means all.

    Raises:
        FileNotFoundError: If ``path`` does not exist.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no folder or file {path}")
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
    except FileNotFoundError:  # a broken link
        return False
    except OSError:  # keep it, so that reading it reports the reason
        return True
    return stat.S_ISREG(status.st_mode) and (path.suffix.lower() == ".pdf" or status.st_size <= MAX_TEXT_BYTES)


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
"""Languages that the splitter knows, by suffix."""

PLAIN = {".cfg", ".css", ".ini", ".json", ".pdf", ".sh", ".sql", ".toml", ".txt", ".yaml", ".yml"}
"""Other suffixes that are indexed."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a file.

    Attributes:
        text: The text, without the indentation of its first line.
        start_line: First line, counted from 1; in a PDF, on its page.
        end_line: Last line.
        page: Page of a PDF, counted from 1; 0 for other files.
        indent: Columns of the indentation that ``text`` leaves out.
    """

    text: str
    start_line: int
    end_line: int
    page: int = 0
    indent: int = 0


class Splitter:
    """Splits files into passages with a bounded number of tokens, at places that suit their language."""

    def __init__(self, count: Callable[[str], int], tokens: int, overlap: int) -> None:
        """Keep the limits.

        Args:
            count: Counts the tokens of a text.
            tokens: Most tokens in a passage.
            overlap: Most tokens that a passage repeats from the previous one.
        """
        self._count, self._tokens, self._overlap = count, tokens, overlap

    def split(self, path: Path) -> list[Passage]:
        """Split a file.

        Raises:
            ValueError: If it is neither text nor a readable PDF.
        """
        pages = enumerate(_pdf_pages(path), 1) if path.suffix.lower() == ".pdf" else [(0, _text(path))]
        return [passage for page, text in pages for passage in self._pieces(text, path.suffix.lower(), page)]

    def _pieces(self, text: str, suffix: str, page: int) -> Iterator[Passage]:
        start = -1
        for piece in self._splitter(suffix).split_text(text):
            # A passage starts after the start of the previous one. So the search finds each copy of a repeated text.
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
        raise ValueError(f"{path} is not text: it holds a zero byte")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})") from error


def _pdf_pages(path: Path) -> Iterator[str]:
    pypdf = require("pypdf", "search", "A PDF file")
    try:
        for page in pypdf.PdfReader(path).pages:
            # pypdf returns lone surrogates for characters that have no code.
            yield page.extract_text().encode("utf-8", "replace").decode()
    except Exception as error:  # pypdf documents that a broken file may raise anything; an encrypted one does too
        raise ValueError(f"{path} cannot be read as PDF: {str(error) or type(error).__name__}") from error
