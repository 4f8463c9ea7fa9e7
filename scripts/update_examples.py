"""Run the Python blocks of the pages, and write what they print into the text blocks that follow them.

Usage: ``python scripts/update_examples.py [PAGE...]``, after a change of what examples print: another embedded model, say.
Read the difference before it is kept: a page's words may speak of its figures.
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
    """Run a block in a page's namespace and give its lines without trailing spaces; tests/test_readme.py uses it, too."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "page", "exec"), namespace)  # noqa: S102 - the pages are ours
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def rerun(markdown: str) -> str:
    """Return a page with every example's output as it is now."""
    namespace: dict[str, Any] = {"__name__": "page"}
    blocks = list(BLOCK.finditer(markdown))
    found = [(block, printed(block[2], namespace)) for block in blocks if block[1] == "python"]
    outputs = dict(found)
    for example, text in reversed(list(pairwise(blocks))):
        if example in outputs and text[1] == "text":
            markdown = markdown[: text.start(2)] + outputs[example] + markdown[text.end(2) :]
    return markdown


def main() -> None:
    """Update the pages that are named, or all of them."""
    # As in the tests: settings of one's own would end up on the pages.
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
