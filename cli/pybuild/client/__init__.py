"""The two doors to the engine, behind one Protocol: a daemon on a unix socket, or this same process.

`connect` picks one. Both give the same values, events and errors. Imports are few and late: a cached build
spends most of its time starting Python.
"""

import os

from pybuild.client.backend import Backend

__all__ = ["Backend", "connect", "wants_inline"]


def connect(*, inline: bool | None = None) -> Backend:
    """Return the backend asked for by flag, environment or configuration; starts the daemon when it is to be one.

    Use it in a `with`. Raises PybuildError when no daemon can be started or reached.
    """
    if wants_inline(inline):
        from pybuild.client.inline import Inline

        return Inline()
    from pybuild.client.remote import Remote

    return Remote.connect()


def wants_inline(flag: bool | None = None) -> bool:
    """Tell whether to work in this process: the flag, else `PYBUILD_INLINE`, else `inline` of the configuration."""
    if flag is not None:
        return flag
    value = os.environ.get("PYBUILD_INLINE", "").strip().lower()
    if value:
        return value not in ("0", "no", "false", "off")
    from pybuild.engine.paths import config

    return config().get("inline") is True
