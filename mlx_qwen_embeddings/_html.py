"""The table that an engine or a result shows of itself in a notebook."""

from collections.abc import Mapping
from html import escape

_LEFT = 'style="text-align:left;vertical-align:top"'

Table = tuple[str, Mapping[str, object]]
"""A caption, and values by name."""


class NotebookTable:
    """Shows an object as a table with a row for each value; everything in it is escaped."""

    __slots__ = ()

    def _table(self) -> Table:
        raise NotImplementedError

    def _repr_html_(self) -> str:
        caption, values = self._table()
        rows = (f"<tr><th {_LEFT}>{_cell(name)}</th><td {_LEFT}>{_cell(value)}</td></tr>" for name, value in values.items())
        return f"<table><caption {_LEFT}><b>{_cell(caption)}</b></caption>{''.join(rows)}</table>"


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return escape(f"{value:.4g}" if isinstance(value, float) else str(value))
