"""What RUN stands on and how it is kept apart: options, the environment, the settings."""

import pytest

from pybuild.commands import flags
from pybuild.errors import UsageError


@pytest.mark.parametrize(
    ("read", "name", "value"), [(flags.snapshotter, "snapshotter", "copy"), (flags.isolation, "isolation", "chroot")]
)
def test_the_nearest_word_counts(read: object, name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(read)
    variable = f"PYBUILD_{name.upper()}"
    monkeypatch.delenv(variable, raising=False)
    assert read("", {}) == ""
    assert read("", {name: value}) == value
    monkeypatch.setenv(variable, "auto")
    assert read("", {name: value}) == "auto"
    assert read(value, {}) == value
    with pytest.raises(UsageError, match=f"unknown {name}: other"):
        read("other", {})
    monkeypatch.setenv(variable, "")
    with pytest.raises(UsageError, match="unknown"):
        read("", {name: 7})
