"""A few texts of different lengths, and a comparison of vectors within the promised tolerance."""

from typing import Any

import numpy as np

TEXTS = ["The cat sat on the mat.", "Prices rose in May, for the third month in a row.", "", "A quiet light over water"]


def assert_same(left: Any, right: Any) -> None:
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-5)
