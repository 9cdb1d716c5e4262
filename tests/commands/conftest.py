from collections.abc import Iterator

import pytest

from support.fake_world import World
from support.fake_world import fake_world as make_world


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A place for a daemon on the fake engine."""
    with make_world(monkeypatch) as world:
        yield world
