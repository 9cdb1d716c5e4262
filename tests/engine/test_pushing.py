"""What a push has made is not made again."""

from pathlib import Path

import pytest

from pybuild.engine import pushing
from support import registry
from support.here import make


@pytest.mark.parametrize("compression", ["", "zstd"])
def test_a_second_push_compresses_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compression: str
) -> None:
    here = make(capsys, monkeypatch, tmp_path)
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    how = [f"--compression={compression}"] if compression else []
    with registry.fake() as first, registry.fake() as second:
        here("build", "-q", "-t", first.name("app:1"), "-t", second.name("app:1"), context)
        digest = here("push", "-q", *how, first.name("app:1")).text

        def never(*_: object, **__: object) -> None:
            raise AssertionError("it is compressed again")

        monkeypatch.setattr(pushing, "compress", never)
        assert here("push", "-q", *how, second.name("app:1")).text == digest
        assert here("push", "-q", *how, first.name("app:1")).text == digest
        with pytest.raises(AssertionError, match="compressed again"):
            here("push", "-q", "--compression=gzip" if compression else "--compression=zstd", first.name("app:1"))
