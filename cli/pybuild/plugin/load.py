"""Loading the plugin that is called, and telling whose fault it is when that goes wrong."""

import os
import sys
from collections.abc import Sequence
from typing import Any

from pybuild.errors import PybuildError
from pybuild.plugin.errors import PluginError
from pybuild.plugin.found import EXECUTABLE, Found

SLOW_SECONDS = 1.0
"""A plugin that takes longer to import is told of."""

_loaded: list[Found] = []
"""The plugin of this process, none or one."""


def load(plugin: Found, words: Sequence[str]) -> Any:
    """Return what the plugin has for the command line; an executable is run with `words` and does not come back.

    Raises PluginError, in one line, for one that cannot be used.
    """
    if plugin.problem:
        hint = (
            "`pybuild plugin list` shows all" if plugin.problem != "disabled" else "`pybuild plugin enable` undoes it"
        )
        raise PluginError(plugin, f"cannot be used: {plugin.problem}", hint)
    if plugin.kind == EXECUTABLE:
        from pybuild.plugin.executable import execute

        execute(plugin, words)
    return imported(plugin)


def imported(plugin: Found) -> Any:
    """Import a Python plugin and return what its entry point names; raise PluginError."""
    import time
    from importlib import import_module

    _loaded[:] = [plugin]
    if plugin.folder and plugin.folder not in sys.path:
        # Behind our own libraries: those are part of what a plugin can rely on
        sys.path.append(plugin.folder)
    module, _, attributes = plugin.target.partition(":")
    begun = time.monotonic()
    try:
        found: Any = import_module(module)
        for name in attributes.split(".") if attributes else ():
            found = getattr(found, name)
    except PybuildError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(plugin, f"cannot be loaded: {_told(error)}") from error
    took = time.monotonic() - begun
    if took > SLOW_SECONDS:
        sys.stderr.write(
            f"note: plugin {plugin.name} ({plugin.distribution} {plugin.version}) took {took:.1f} s to load\n"
        )
    return found


def blame(error: BaseException) -> PluginError | None:
    """Return an unexpected error as that of the plugin which runs, None when none does."""
    if not _loaded:
        return None
    told = PluginError(_loaded[0], f"has failed: {_told(error)}")
    told.__cause__ = error
    return told


def see_bundled() -> None:
    """Make the plugins that come with pybuild importable where it runs from a checkout: beside `cli`."""
    above = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    checkout, name = os.path.split(above)
    place = os.path.join(checkout, "plugins")
    if name == "cli" and place not in sys.path and os.path.isdir(place):
        sys.path.append(place)


def _told(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return " ".join(text.split())[:500]
