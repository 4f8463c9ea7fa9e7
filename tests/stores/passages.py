"""2,000 passages of real prose from the interpreter itself: Python's reference manual and its library's docstrings.

So the project ships no passages. The text differs a little between Python versions, so no result is written down here.
"""

import importlib
import inspect
import re
from collections.abc import Iterator
from pydoc_data.topics import topics
from typing import NamedTuple

NUMBER = 2000
FEWEST_WORDS = 12
MODULES = (
    *("argparse", "ast", "asyncio", "base64", "bz2", "calendar", "codecs", "collections", "concurrent.futures"),
    *("configparser", "contextlib", "csv", "ctypes", "dataclasses", "datetime", "decimal", "difflib", "email.message"),
    *("enum", "fractions", "functools", "gettext", "glob", "gzip", "heapq", "http.client", "imaplib", "inspect", "io"),
    *("ipaddress", "itertools", "json", "locale", "logging", "mailbox", "mimetypes", "multiprocessing", "operator", "os"),
    *("pathlib", "pickle", "platform", "plistlib", "profile", "pydoc", "queue", "random", "re", "sched", "secrets"),
    *("selectors", "shelve", "shutil", "smtplib", "socket", "sqlite3", "ssl", "statistics", "string", "struct"),
    *("subprocess", "tarfile", "tempfile", "textwrap", "threading", "timeit", "tokenize", "trace", "traceback", "typing"),
    *("unittest", "urllib.parse", "urllib.request", "uuid", "warnings", "wave", "weakref", "zipfile", "zoneinfo"),
)


class Passage(NamedTuple):
    """A paragraph, its page ("assert", "csv"), and its part: "manual" or "library"."""

    text: str
    page: str
    part: str


QUESTIONS = (
    "How do I read a file with comma separated values?",
    "What happens when an assertion fails?",
    "start a new process and wait until it ends",
    "Which numbers can be compared with each other?",
    "measure how long a small piece of code takes",
    "How are default values of arguments evaluated?",
    "parse the options of a command line",
    "convert a date to a string in a given format",
    "unpack a compressed archive into a folder",
    "send an electronic mail",
    "What does the yield expression do in a generator?",
    "draw a random element of a sequence",
)


def passages(number: int = NUMBER) -> list[Passage]:
    """Return ``number`` distinct paragraphs, always the same for one version of Python."""
    found: dict[str, Passage] = {}
    for passage in _all():
        found.setdefault(passage.text, passage)
        if len(found) == number:
            return list(found.values())
    message = f"this Python has {len(found)} passages, fewer than {number}"
    raise ValueError(message)


def _all() -> Iterator[Passage]:
    for name, text in sorted(topics.items()):
        yield from (Passage(paragraph, name, "manual") for paragraph in _paragraphs(text))
    for name in MODULES:
        for text in _docstrings(name):
            yield from (Passage(paragraph, name, "library") for paragraph in _paragraphs(text))


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        words = paragraph.split()
        if len(words) >= FEWEST_WORDS:
            yield " ".join(words)


def _docstrings(name: str) -> Iterator[str]:
    module = importlib.import_module(name)
    owners = [module, *(one for _, one in sorted(vars(module).items()) if inspect.isclass(one) and one.__module__ == name)]
    yield inspect.getdoc(module) or ""
    for owner in owners:
        for member, one in sorted(vars(owner).items()):
            if not member.startswith("_") and callable(one):
                yield inspect.getdoc(one) or ""
