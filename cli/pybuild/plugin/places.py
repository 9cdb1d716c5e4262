"""Where plugins are looked for, and who may put them there.

In this order, and the first of a name wins: the folders in `PYBUILD_PLUGIN_PATH`, those in the user's own directory
`~/.local/share/pybuild/plugins`, what is installed beside pybuild, and, where `PYBUILD_PLUGINS_ON_PATH=1` asks for it,
executables `pybuild-NAME` on PATH. Never the working directory or a build context.
"""

import os
import stat
import sys

PATH = "PYBUILD_PLUGIN_PATH"
ON_PATH = "PYBUILD_PLUGINS_ON_PATH"
SITE = ("site-packages", "dist-packages")


def own_directory() -> str:
    """Return the directory in which the user's plugins are, each in a folder of its own."""
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(data, "pybuild", "plugins")


def disabled_file() -> str:
    """Return the file that names the plugins which are not to be used, one a line."""
    return os.path.join(own_directory(), "disabled")


def disabled() -> set[str]:
    """Return the names of the plugins that are switched off."""
    try:
        with open(disabled_file(), encoding="utf-8", errors="replace") as file:
            return {line.strip() for line in file if line.strip()}
    except OSError:
        # Most users have none, and one that cannot be read switches nothing off
        return set()


def index_file() -> str:
    """Return the file in which what was found is remembered."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(cache, "pybuild", "plugins.index")


def plugin_directories() -> list[str]:
    """Return the directories that hold plugin folders and executables."""
    named = os.environ.get(PATH, "").split(os.pathsep)
    return list(dict.fromkeys([*(path for path in named if os.path.isabs(path)), own_directory()]))


def site_directories() -> list[str]:
    """Return the directories in which this Python's packages are installed."""
    return [path for path in dict.fromkeys(sys.path) if os.path.basename(path) in SITE and os.path.isabs(path)]


def path_directories() -> list[str]:
    """Return the directories of PATH, none unless they were asked for."""
    if os.environ.get(ON_PATH, "").strip().lower() in ("", "0", "no", "false", "off"):
        return []
    return [path for path in dict.fromkeys(os.environ.get("PATH", "").split(os.pathsep)) if os.path.isabs(path)]


def distrusted(path: str) -> str:
    """Return why nothing at `path` is to be run, "" when it may be: others could have put it there."""
    status = os.stat(path)
    if status.st_uid not in (0, os.geteuid()):
        return f"belongs to user {status.st_uid}: {path}"
    sticky_directory = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if status.st_mode & stat.S_IWOTH and not sticky_directory:
        return f"others may write to it: {path}"
    if status.st_mode & stat.S_IWGRP and status.st_gid != os.getegid():
        return f"another group may write to it: {path}"
    return ""
