"""Where the frozen program starts: it makes this a Python like any other, then is pybuild.

What PyInstaller runs before a program is left out (`build.spec`): its importers are for archives and cost a third of a
start, and it takes VIRTUAL_ENV from the user's programs. What is needed of it is done here.

The loader leads the dynamic linker to the libraries of the bundle, which git, ssh, credential helpers and all other
programs would then take for theirs. The linker has read that by now, and a process of pybuild's own gets it anew.
"""

import encodings
import os
import sys
from contextlib import suppress
from time import time

from pybuild.__main__ import main

_DIRECTORY: str = sys._MEIPASS  # type: ignore[attr-defined]
_LINKER = "LD_LIBRARY_PATH"
_USERS = "LD_LIBRARY_PATH_ORIG"
_LOADERS = ("_PYI_", "_MEI", "PYINSTALLER_")
# Of other systems: libraries try them at each start, and to find out whether they are in the archive takes long
_OF_OTHERS = ("_winapi", "msvcrt", "nt", "org")
_DAY = 24 * 60 * 60


def _complete() -> None:
    """Say that this is frozen, and give the modules that Python has inside of itself the names of their files."""
    later = os.path.join(_DIRECTORY, "later.zip")
    sys.path.append(later)
    encodings.__path__.append(os.path.join(later, "encodings"))
    sys.frozen = True  # type: ignore[attr-defined]
    # Those that are imported from now on
    sys._stdlib_dir = _DIRECTORY  # type: ignore[attr-defined]
    for module in sys.modules.copy().values():
        state = getattr(module.__spec__, "loader_state", None)
        if not hasattr(module, "__file__") and hasattr(state, "origname"):
            module.__file__ = os.path.join(_DIRECTORY, *state.origname.split(".")) + ".pyc"
    for name in _OF_OTHERS:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def _unmark() -> None:
    """Give this process the environment that the user started it with."""
    users = os.environ.pop(_USERS, None)
    os.environ.pop(_LINKER, None)
    if users is not None:
        os.environ[_LINKER] = users
    for name in [name for name in os.environ if name.startswith(_LOADERS)]:
        del os.environ[name]


def _keep() -> None:
    """Keep the copy that the self-unpacking program has made of itself: it sweeps those that nobody starts."""
    mark = os.path.join(os.path.dirname(sys.executable), "started")
    # The mark is no more than a hint, and only such a copy has one
    with suppress(OSError):
        if os.stat(mark).st_mtime < time() - _DAY:
            os.utime(mark)


_complete()
_unmark()
_keep()
sys.exit(main())
