"""What plugins show, and their settings."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from pybuild.plugin import UsageError, bar, plugin_settings

CODE = """
from pybuild.plugin import progress
with progress("up", 1000) as done:
    for _ in range(10):
        done(100)
print("end")
"""


def test_progress_is_for_terminals() -> None:
    quiet = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60)
    assert (quiet.stdout, quiet.stderr) == ("end\n", "")
    master, slave = pty.openpty()
    # A terminal without a width has no room for a bar
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    os.set_blocking(master, False)
    done = subprocess.run([sys.executable, "-c", CODE], stdout=subprocess.PIPE, stderr=slave, timeout=60, check=True)
    assert done.stdout == b"end\n"
    assert b"up:" in os.read(master, 65536)
    os.close(slave)
    os.close(master)


@pytest.mark.parametrize(
    ("share", "shown"), [(0, "    "), (1, "████"), (2, "████"), (0.5, "██  "), (1 / 32, "▏   "), (-1, "    ")]
)
def test_bars_have_eighths(share: float, shown: str) -> None:
    assert bar(share, 4) == shown


def test_settings_are_a_table_of_the_users_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config.toml"
    monkeypatch.setenv("PYBUILD_CONFIG", str(file))
    assert plugin_settings("hello") == {}
    file.write_text("[plugin]\nother = 1\n[plugin.hello]\nloud = true\n")
    assert plugin_settings("hello") == {"loud": True}
    with pytest.raises(UsageError, match=r"a table: \[plugin.other\]"):
        plugin_settings("other")
