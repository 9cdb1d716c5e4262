from pathlib import Path

import pytest

from support.here import Here, make


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Here:
    """Runs commands in this process."""
    return make(capsys, monkeypatch, tmp_path)
