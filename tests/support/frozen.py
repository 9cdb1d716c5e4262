"""The frozen program, where the tests are told of one: it then runs as the user of a machine without Python would."""

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

PROGRAM = os.environ.get("PYBUILD_TEST_PROGRAM", "")
"""The path of what `packaging/build` has made, "" to test the program of this checkout."""

COMMAND = [PROGRAM] if PROGRAM else []


@functools.cache
def environment() -> dict[str, str]:
    """Return what its environment has besides: a PATH without any Python, one place for all tests to unpack it."""
    base = Path(tempfile.mkdtemp(prefix="pbf-"))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    return {"PATH": str(_without_python(base / "bin")), "PYBUILD_UNPACK_DIR": str(base / "program")}


def _without_python(directory: Path) -> Path:
    directory.mkdir(mode=0o755)
    for path in os.get_exec_path():
        for name in os.listdir(path) if os.path.isdir(path) else ():
            if not name.startswith(("python", "pybuild", "pip")) and not os.path.lexists(directory / name):
                (directory / name).symlink_to(Path(path, name))
    return directory
