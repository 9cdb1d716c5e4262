"""The doors to the engine, behind one Protocol: a daemon on a unix socket or another machine, or this same process.

`connect` picks one. Both give the same values, events and errors. Imports are few and late: a cached build
spends most of its time starting Python.
"""

import os

from pybuild.client.backend import Backend
from pybuild.errors import UsageError

__all__ = ["Backend", "connect", "wants_inline"]


def connect(*, inline: bool | None = None, start: bool = False) -> Backend:
    """Return the backend asked for by flag, environment or configuration; use it in a `with`.

    When none of them says which, it is the daemon that runs; where none does, this process does the work, which
    takes less time than waiting for one, and with `start` a daemon comes up meanwhile for those that follow.
    Where PYBUILD_HOST names a daemon it is that one. Raises PybuildError when no daemon can be started or reached.
    """
    if os.environ.get("PYBUILD_HOST", "").strip():
        return _distant(inline)
    wanted = wants_inline(inline)
    if wanted is None:
        from pybuild.client.start import place, start_in_background, try_connect

        where = place()
        connection = try_connect(where)
        if connection is None:
            if start:
                start_in_background(where)
            wanted = True
        else:
            connection.close()
    if wanted:
        from pybuild.client.inline import Inline

        return Inline()
    from pybuild.client.remote import Remote

    return Remote.connect()


def _distant(inline: bool | None) -> Backend:
    from pybuild.client.distant import Distant
    from pybuild.client.hosts import VARIABLE, chosen

    host = chosen()
    assert host is not None
    if inline or (inline is None and _inline_variable()):
        raise UsageError(
            f"{'--inline' if inline else 'PYBUILD_INLINE'} builds here, and the host is another: {host.name}",
            f"leave one of them out: --inline, PYBUILD_INLINE, --host, {VARIABLE}",
        )
    return Distant(host)


def _inline_variable() -> bool | None:
    value = os.environ.get("PYBUILD_INLINE", "").strip().lower()
    return value not in ("0", "no", "false", "off") if value else None


def wants_inline(flag: bool | None = None) -> bool | None:
    """Tell whether to work in this process: the flag, else `PYBUILD_INLINE`, else `inline` of the configuration.

    None when none of them says.
    """
    if flag is not None:
        return flag
    variable = _inline_variable()
    if variable is not None:
        return variable
    from pybuild.engine.paths import config

    setting = config().get("inline")
    return setting if isinstance(setting, bool) else None
