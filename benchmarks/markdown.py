"""Write Markdown tables, and put them into pages between marks."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def fill(page: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """Put every table between the marks ``<!-- name -->`` and ``<!-- /name -->``.

    Raises:
        ValueError: If the page does not contain a pair of marks exactly once.
    """
    for name, make in tables.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        parts = pattern.split(page)
        if len(parts) != len(("before", "mark", "mark", "after")):
            message = f"the page needs <!-- {name} --> and <!-- /{name} --> exactly once"
            raise ValueError(message)
        before, opening, closing, after = parts
        page = f"{before}{opening}{make()}\n{closing}{after}"
    return page
