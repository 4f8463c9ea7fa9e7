"""Open every store in a process that did not build it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stores.kinds import HERE, KINDS
from tests.stores.passages import QUESTIONS
from tests.stores.place import Place

Built = Callable[[str], Place]

PROGRAM = """
import json, sys
from pathlib import Path
from tests.stores.kinds import KINDS
from tests.stores.place import Place
places, questions = json.loads(sys.argv[1])
found = {}
for name, (folder, address) in places.items():
    with KINDS[name](Place(Path(folder), address), {}) as store:
        found[name] = [store.search(question) for question in questions]
print(json.dumps(found))
"""


@pytest.mark.timeout(300)
def test_a_new_process_finds_the_same_passages(built: Built) -> None:
    questions = QUESTIONS[:3]
    places = {name: built(name) for name in HERE}
    expected = {}
    for name, place in places.items():
        with KINDS[name](place, {}) as store:
            expected[name] = [store.search(question) for question in questions]
    given = json.dumps([{name: [str(place.folder), place.address] for name, place in places.items()}, questions])
    project = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", PROGRAM, given], cwd=project, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1]) == expected
