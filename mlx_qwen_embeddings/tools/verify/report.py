"""The result of ``verify``."""

from dataclasses import asdict, dataclass
from typing import Any

from mlx_qwen_embeddings._html import NotebookTable, Table


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the report.

    Attributes:
        name: What was checked.
        ok: Whether the check passed.
        expected: What a correct model has.
        found: What this model has.
        remedy: How to fix it; "" if the check passed.
    """

    name: str
    ok: bool
    expected: str
    found: str
    remedy: str = ""

    @classmethod
    def equal(cls, name: str, expected: str, found: str, remedy: str) -> "Check":
        """Return a check that passes if what was found is what was expected."""
        ok = expected == found
        return cls(name, ok, expected, found, "" if ok else remedy)


@dataclass(frozen=True, slots=True)
class VerifyReport(NotebookTable):
    """All checks of a model, in the order they were made.

    Attributes:
        model: The model's name, as given.
        rows: The checks. Those that need vectors are missing if the model does not load or its vectors are not finite.
        known: Name of the published model that it was compared with; None if it is not known to be one.
    """

    model: str
    rows: tuple[Check, ...]
    known: str | None = None

    @property
    def ok(self) -> bool:
        """Whether all checks passed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(row for row in self.rows if not row.ok)

    def as_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return asdict(self) | {"ok": self.ok}

    @property
    def heading(self) -> str:
        """The result in one line."""
        against = f"compared with the published values of {self.known}" if self.known else "no published values are known"
        failed = len(self.failures)
        outcome = f"{failed} of {len(self.rows)} checks failed" if failed else "all checks passed"
        return f"{self.model}: {outcome}; {against}"

    def __str__(self) -> str:
        """Return the table as plain text, followed by the remedies."""
        cells = [("", "check", "expected", "found")]
        cells += [("✓" if row.ok else "✗", row.name, row.expected, row.found) for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)
        return "\n".join([self.heading, *lines, *(f"{row.name}: {row.remedy}" for row in self.failures)])

    def _table(self) -> Table:
        failed = "{0.found}, not {0.expected}: {0.remedy}"
        return self.heading, {
            f"{'✓' if row.ok else '✗'} {row.name}": row.found if row.ok else failed.format(row) for row in self.rows
        }
