"""Run the Python blocks of the pages, and write their output into the text blocks that follow them.

Usage: ``python scripts/update_examples.py [PAGE...]``, after a change that affects outputs, such as another embedded model.
Read the diff before you commit it, because the text of a page may mention its figures.
"""

import contextlib
import io
import os
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def printed(code: str, namespace: dict[str, Any]) -> str:
    """Run a block in a page's namespace, and return its output without trailing spaces. The tests of pages use it too."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "page", "exec"), namespace)  # noqa: S102 - the pages are ours
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def rerun(markdown: str) -> str:
    """Return a page with the current output of every example."""
    namespace: dict[str, Any] = {"__name__": "page"}
    blocks = list(BLOCK.finditer(markdown))
    found = [(block, printed(block[2], namespace)) for block in blocks if block[1] == "python"]
    outputs = dict(found)
    for example, text in reversed(list(pairwise(blocks))):
        if example in outputs and text[1] == "text":
            markdown = markdown[: text.start(2)] + outputs[example] + markdown[text.end(2) :]
    return markdown


def main() -> None:
    """Update the named pages, or all of them."""
    # As in the tests: the user's own settings must not affect the pages.
    os.environ |= {"HF_HUB_OFFLINE": "1"}
    for name in [name for name in os.environ if name.startswith("MLX_QWEN_")]:
        del os.environ[name]
    pages = [Path(name) for name in sys.argv[1:]] or [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
    for page in pages:
        before = page.read_text("utf-8")
        after = rerun(before)
        if after != before:
            page.write_text(after, "utf-8")
            print(f"{page}: changed")


if __name__ == "__main__":
    main()
