"""A cache that stands still costs a build no more than a bounded wait."""

from pathlib import Path
from threading import Event

import pytest

from pybuild.engine import giving
from support import registry
from support.here import make


def test_a_registry_that_says_nothing_is_given_up(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = make(capsys, monkeypatch, tmp_path)
    monkeypatch.setattr(giving, "STALLED_SECONDS", 0.3)
    gate = Event()
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    with registry.fake() as remote:
        remote.contents.lasting.append(lambda asked: gate.wait(120) and None)
        try:
            cache = f"type=registry,ref={remote.name('cache:1')}"
            told = here("build", "--progress=plain", "-t", "x", "--cache-to", cache, context).err
            assert (
                f"warning: the registry has taken nothing of the cache for 0.3 seconds: {remote.name('cache:1')}"
                in told
            )
            strict = here("build", "-t", "x", "--cache-to", f"{cache},ignore-error=false", context, status=1).err
            assert "taken nothing of the cache" in strict
        finally:
            gate.set()
    assert "x" in here("images").text
