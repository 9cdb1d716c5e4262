"""What is known of a bug, in a file of its own. Imported when there is one."""

import platform
import tempfile
from time import strftime

from pybuild import __version__
from pybuild.engine.paths import store_root
from pybuild.errors import PybuildError


def write_bug_log(text: str) -> str:
    """Write what is known of a bug to a file of its own and return its path."""
    system = f"pybuild {__version__}, Python {platform.python_version()}, {platform.platform()}"
    name = f"bug-{strftime('%Y%m%d-%H%M%S')}-"
    try:
        directory = store_root() / "logs"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, path = tempfile.mkstemp(".log", name, directory)
    except (OSError, PybuildError):
        # The store may be what is broken
        try:
            descriptor, path = tempfile.mkstemp(".log", f"pybuild-{name}")
        except OSError as error:
            return f"no file: {error.strerror}"
    with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{system}\n{text}\n")
    return path
