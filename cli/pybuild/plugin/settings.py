"""Settings of plugins: tables of the user's `config.toml`."""

from typing import Any

from pybuild.errors import UsageError


def plugin_settings(name: str) -> dict[str, Any]:
    """Return the table `[plugin.NAME]` of the user's settings, empty when there is none.

    Raises UsageError for a file that cannot be read, or where that is no table.
    """
    from pybuild.engine.paths import config

    tables = config().get("plugin", {})
    found = tables.get(name, {}) if isinstance(tables, dict) else None
    if not isinstance(found, dict):
        raise UsageError(f"the settings of a plugin are a table: [plugin.{name}]")
    return found
