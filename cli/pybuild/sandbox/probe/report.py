"""What a probe found, as a value. SCHEMA.md tells its JSON."""

from typing import Literal

import msgspec

State = Literal["ok", "degraded", "missing"]
Need = Literal["required", "wanted", "optional"]
Mode = Literal["multi", "root", "single", "none"]
Isolated = Literal["namespaces", "chroot", "none"]
Stacked = Literal["overlay", "copy", "none"]
Level = Literal["best", "lesser", "none"]

SCHEMA = 1


class Ability(msgspec.Struct, frozen=True):
    """One thing that was tried.

    `purpose` is what builds use it for. `step` is the first one that failed, `error` its errno by name ("" when
    there was none), `problem` one sentence. `detail` is worth knowing when it works; `fix` is one line.
    """

    name: str
    state: State
    need: Need
    purpose: str
    detail: str = ""
    step: str = ""
    error: str = ""
    problem: str = ""
    fix: str = ""


class Report(msgspec.Struct, frozen=True):
    """What a build would do here: `mode` is how it maps ids, `level` whether all is the best there is.

    `isolation` is how RUN is kept apart and `snapshotter` what it stands on.
    """

    schema: int
    mode: Mode
    level: Level
    store: str
    abilities: tuple[Ability, ...]
    profile: str = ""
    """The text of an AppArmor profile for this program, when that is what is missing."""
    isolation: Isolated = "none"
    snapshotter: Stacked = "none"

    @property
    def fixes(self) -> dict[str, list[str]]:
        """Return the lines that help and the abilities each brings, what builds need most first."""
        order = {"required": 0, "wanted": 1, "optional": 2}
        found: dict[str, list[str]] = {}
        for ability in sorted(self.abilities, key=lambda item: order[item.need]):
            if ability.state != "ok" and ability.fix:
                found.setdefault(ability.fix, []).append(ability.name)
        return found


def level_of(mode: Mode, abilities: tuple[Ability, ...]) -> Level:
    """Return whether builds in this mode with these abilities are the best that can be had anywhere."""
    if mode == "none":
        return "none"
    lacking = any(item.state != "ok" and item.need != "optional" for item in abilities)
    return "lesser" if lacking or mode == "single" else "best"
