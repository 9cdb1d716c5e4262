"""What the command line says of registries."""

from pybuild.engine.reach import host, proxies, settings
from pybuild.errors import UsageError

__all__ = ["host", "proxies", "pull_policy", "settings"]


def pull_policy(text: str) -> str:
    """Return when images are asked for at their registry, as `--pull` says."""
    known = {"true": "always", "always": "always", "missing": "missing", "false": "missing", "never": "never"}
    if text.lower() not in known:
        raise UsageError(f"unknown value for --pull: {text}", "known: always, missing, never")
    return known[text.lower()]
