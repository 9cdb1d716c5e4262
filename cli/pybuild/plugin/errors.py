"""Errors of plugins: a line that names the plugin and its version, and how to go on without it."""

from pybuild.errors import ExitCode, PybuildError
from pybuild.plugin.found import Found


class PluginError(PybuildError):
    """A plugin that cannot be used, or that failed."""

    exit_code: ExitCode = ExitCode.PLUGIN

    def __init__(self, plugin: Found, problem: str, hint: str = "") -> None:
        super().__init__(
            f"plugin {plugin.name} ({plugin.distribution} {plugin.version}) {problem}",
            hint or f"PYBUILD_DEBUG=1 shows where; without it: `pybuild plugin disable {plugin.name}`",
        )
