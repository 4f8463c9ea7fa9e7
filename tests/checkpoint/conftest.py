"""A Hub on loopback that serves nano."""

from collections.abc import Iterator

import pytest

from tests.support.fake_hub import FakeHub
from tests.support.nano_hub import serve_nano


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    yield from serve_nano(monkeypatch)
