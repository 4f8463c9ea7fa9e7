"""Small tables for notebooks. Everything that stands in them is escaped."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

_CELL = "text-align:left;vertical-align:top"


def facts_table(caption: str, facts: Mapping[str, object]) -> str:
    """Give a table with a fact a line.

    Args:
        caption: Above it.
        facts: Values by name.
    """
    lines = (f'<tr><th style="{_CELL}">{_cell(name)}</th>{_data(value)}</tr>' for name, value in facts.items())
    return _table(caption, lines)


def rows_table(caption: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Give a table with columns.

    Args:
        caption: Above it.
        head: Names of the columns.
        rows: Cells of each line.
    """
    top = "".join(f'<th style="{_CELL}">{_cell(name)}</th>' for name in head)
    lines = (f"<tr>{''.join(map(_data, row))}</tr>" for row in rows)
    return _table(caption, [f"<tr>{top}</tr>", *lines])


def _table(caption: str, lines: Iterable[str]) -> str:
    return f'<table><caption style="text-align:left"><b>{_cell(caption)}</b></caption>{"".join(lines)}</table>'


def _data(value: object) -> str:
    return f'<td style="{_CELL}">{_cell(value)}</td>'


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return escape(f"{value:.4g}" if isinstance(value, float) else str(value))
