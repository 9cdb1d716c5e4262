"""The variables of a stage: ENV and ARG write one build environment in file order, the later one wins.

Only ENV reaches the image; a set ARG reaches RUN; a declared ARG reaches the history.
"""

from collections.abc import Iterable, Mapping

PROXY_NAMES = frozenset(
    name
    for upper in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (upper, upper.lower())
)
"""Build arguments that RUN sees without an ARG, kept out of history and cache key."""

MAX_ENVIRONMENT = 1 << 20
"""Most bytes all variables of a stage may hold together."""


class Scope:
    """The growing variable state while a stage's instructions are read."""

    def __init__(self, env: Iterable[str] = (), args: Mapping[str, str | None] | None = None) -> None:
        self.env: dict[str, str] = {}
        for item in env:
            name, _, value = item.partition("=")
            self.env[name] = value
        self.args: dict[str, str | None] = dict(args or {})
        self.values: dict[str, str] = dict(self.env)
        for name, given in self.args.items():
            if given is not None and name not in self.values:
                self.values[name] = given

    def copy(self) -> "Scope":
        """Return an independent copy, for a stage built FROM this one."""
        twin = Scope()
        twin.env, twin.args, twin.values = dict(self.env), dict(self.args), dict(self.values)
        return twin

    def set_env(self, name: str, value: str) -> None:
        """ENV: changes an existing entry in place, else appends."""
        self.env[name] = value
        self.values[name] = value

    def set_arg(self, name: str, value: str | None) -> None:
        """ARG: with a value it hides an earlier ENV; without one it is only declared."""
        self.args[name] = value
        if value is not None:
            self.values[name] = value

    def environment(self) -> list[str]:
        """Return Config.Env."""
        return [f"{name}={value}" for name, value in self.env.items()]

    def run_environment(self) -> dict[str, str]:
        """Return what a RUN sees: Config.Env, then set ARGs."""
        names = [*self.env, *(name for name in self.args if name not in self.env)]
        return {name: self.values[name] for name in names if name in self.values}

    def declared(self) -> list[str]:
        """Return `NAME=value` of each declared ARG in order of first declaration, as the history shows them."""
        return [f"{name}={self.values.get(name, '')}" for name in self.args]

    def size(self) -> int:
        """Return how many characters all variables hold."""
        return sum(len(name) + len(value) for name, value in self.values.items())
