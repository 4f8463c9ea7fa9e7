"""What ``verify`` found."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from mlx_qwen_embeddings._html import rows_table


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the report.

    Attributes:
        name: What was checked.
        ok: Whether it held.
        expected: What a right model gives.
        found: What this one gave.
        remedy: How to mend it; "" when it held.
    """

    name: str
    ok: bool
    expected: str
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Every check of a model, in the order in which they were made.

    Attributes:
        model: The model, as it was named.
        rows: The checks; those that need vectors are absent when the model does not load or gives NaN.
        known: The published model that it was compared with; None when none is known to be the same.
    """

    model: str
    rows: tuple[Check, ...]
    known: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every check held."""
        return all(row.ok for row in self.rows)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that did not hold."""
        return tuple(row for row in self.rows if not row.ok)

    def as_dict(self) -> dict[str, Any]:
        """Give what ``--json`` prints."""
        return {"model": self.model, "ok": self.ok, "known": self.known, "rows": [asdict(row) for row in self.rows]}

    @property
    def heading(self) -> str:
        """The result in a line."""
        against = f"compared with the published values of {self.known}" if self.known else "no published values are known"
        failed = len(self.failures)
        return (
            f"{self.model}: {f'{failed} of {len(self.rows)} checks failed' if failed else 'all checks passed'}; {against}"
        )

    def __str__(self) -> str:
        """Give the table as plain text, followed by the remedies."""
        return "\n".join([self.heading, *_lines(self.rows), *(f"{row.name}: {row.remedy}" for row in self.failures)])

    def _repr_html_(self) -> str:
        rows = [("✓" if row.ok else "✗", row.name, row.expected, row.found, row.remedy) for row in self.rows]
        head = ("", "check", "expected", "found", "remedy")
        width = len(head) if self.failures else len(head) - 1
        return rows_table(self.heading, head[:width], [row[:width] for row in rows])


def _lines(rows: tuple[Check, ...]) -> Iterator[str]:
    cells = [("", "check", "expected", "found")]
    cells += [("✓" if row.ok else "✗", row.name, row.expected, row.found) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
