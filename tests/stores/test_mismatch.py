"""Check that opening a store with other embeddings is refused, with a message that says what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_qwen_embeddings.errors import IndexMismatchError
from mlx_qwen_embeddings.registry import NANO_FOLDER
from tests.stores.kinds import KINDS, every
from tests.stores.passages import QUESTIONS
from tests.stores.place import Place

Built = Callable[[str], Place]


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a copy of nano with another pooling: the same width, but other vectors."""
    folder = shutil.copytree(NANO_FOLDER, tmp_path_factory.mktemp("model") / "nano")
    place = Path(folder) / "1_Pooling" / "config.json"
    modes = json.loads(place.read_text())
    modes |= {"pooling_mode_lasttoken": False, "pooling_mode_mean_tokens": True}
    place.write_text(json.dumps(modes))
    return str(folder)


@every
def test_another_width_is_refused(name: str, built: Built) -> None:
    wanted = r"made with dimensions 384, not 128: embed with the same, or build another store"
    with pytest.raises(IndexMismatchError, match=wanted), KINDS[name](built(name), {"dimensions": 128}):
        pytest.fail("it was opened")


@every
def test_another_model_of_the_same_width_is_refused(name: str, built: Built, changed: str) -> None:
    wanted = rf"made with the model 'nano', not '{changed}': embed with the same, or build another store"
    with pytest.raises(IndexMismatchError, match=wanted), KINDS[name](built(name), {"model": changed}):
        pytest.fail("it was opened")


@every
def test_another_query_instruction_is_accepted(name: str, built: Built) -> None:
    with KINDS[name](built(name), {"query_instruction": "Find the page of the manual"}) as store:
        assert len(store.search(QUESTIONS[0])) == 5
