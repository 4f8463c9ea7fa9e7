"""What a conversion did and what it cost, as text, as JSON and for the model card."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_qwen_embeddings._files import human_size
from mlx_qwen_embeddings.tools.convert.choice import Choice
from mlx_qwen_embeddings.tools.convert.cost import Cost

_SHOWN = 60
"""Characters of a text that are shown."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """A conversion that was done.

    Attributes:
        source: Alias, Hub name or folder.
        target: The new folder.
        choice: How matrices are packed; None where they are plain.
        dtype: Type of what is not packed.
        source_bytes: Size of the source's weights.
        target_bytes: Size of the new weights.
        plain: Matrices that could not be packed.
        repacked: Whether the source was packed itself, so that its weights were rounded twice.
        cost: What the report is about; None when it was not wanted.
    """

    source: str
    target: Path
    choice: Choice | None
    dtype: str
    source_bytes: int
    target_bytes: int
    plain: int
    repacked: bool
    cost: Cost | None

    def as_dict(self) -> dict[str, Any]:
        """Give everything as JSON can hold it."""
        return asdict(self) | {"target": str(self.target)}

    def lines(self) -> list[str]:
        """Give the report, a sentence a line."""
        form = f"{self.choice}; the rest {self.dtype}" if self.choice else f"not packed, {self.dtype}"
        said = [f"{form}; {human_size(self.target_bytes)} of weights, {human_size(self.source_bytes)} in the source"]
        if self.plain and self.choice:
            group = self.choice.group_size
            said.append(f"stored plain, since their rows are no multiple of {group}: {self.plain} matrices")
        if self.repacked:
            said.append("the source is packed itself, so its weights were rounded twice: better convert from plain weights")
        if self.cost:
            cost, text = self.cost, self.cost.worst_text
            shown = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
            change = f"{cost.result_ndcg - cost.source_ndcg:+.4f}, standard error {cost.error:.4f}"
            said += [
                f"cosine to the source over {cost.texts} texts: mean {cost.mean:.5f}, worst {cost.worst:.5f} ({shown!r})",
                f"nDCG@10: {cost.result_ndcg:.4f}, source {cost.source_ndcg:.4f} ({change})",
            ]
        return said

    def __str__(self) -> str:
        return "\n".join([f"{self.target}:", *(f"  {line}" for line in self.lines())])
