"""Check the page on scale: its tables follow from its inputs, and the inputs from the model's shape."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import scale
from benchmarks.markdown import fill
from benchmarks.record import RESULTS

PAGE = scale.SCALE.read_text("utf-8")


def test_tables_match_the_script() -> None:
    assert fill(PAGE, scale.TABLES) == PAGE, "run: python -m benchmarks.scale"
    assert fill(PAGE.replace("4,096", "4,095"), scale.TABLES) == PAGE


def test_the_weights_are_those_of_a_model_of_that_shape() -> None:
    # 28 layers: q, k, v and o projections, then gate, up and down.
    layer = [(1024, 2048), (1024, 1024), (1024, 1024), (2048, 1024), (1024, 3072), (1024, 3072), (3072, 1024)]
    assert scale.weights() == 28 * sum(rows * columns for rows, columns in layer)
    assert "440.4 million" in PAGE
    assert scale.token_flops() == pytest.approx(0.904e9, rel=1e-3)


def test_the_measured_rate_agrees_with_the_stored_result() -> None:
    (measured,) = (machine for machine in scale.MACHINES if machine.measured)
    found = json.loads((RESULTS / "large.json").read_text("utf-8"))["found"]
    seconds = found["(a) documents"]["ours"]["median"]
    assert measured.tokens == pytest.approx(found["limits"]["documents, tokens"] / seconds, rel=0.05)


def test_every_assumed_rate_is_marked_as_assumed() -> None:
    rows = re.findall(r"^\| (?:CPU|Mac mini|H100).*\| (measured|assumed) \|", PAGE, re.MULTILINE)
    assert rows == ["measured"] + ["assumed"] * (len(scale.MACHINES) - 1)


@pytest.mark.parametrize(
    ("value", "shown"), [(317_451.3, "317,000"), (14_177, "14,200"), (159.2, "159"), (85.03, "85.0"), (0.8801, "0.88")]
)
def test_numbers_are_rounded_to_three_digits(value: float, shown: str) -> None:
    assert scale.short(value) == shown


def test_a_tokenizer_is_measured() -> None:
    assert scale.measure(Path(scale.__file__).parents[1] / "mlx_qwen_embeddings" / "nano") > 1000
