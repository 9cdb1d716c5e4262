"""What each pattern of an ignore file does to the paths there are."""

from collections.abc import Iterable

import msgspec

from pybuild.context.ignore import DirState, IgnoreMatcher
from pybuild.context.survey import DIRECTORY, Seen


class Effect(msgspec.Struct):
    """What one pattern does; counts are of paths, `example` is one of them.

    `matches` are matched by the pattern itself, `decides` those whose fate it changed. When there are none,
    `decided_by` is the line that had decided about the example before, 0 for none: it stayed anyway. `inside_stay` is,
    of a pattern that brings back, a directory that it matches and that was not left out, while things in it are.
    """

    line: int
    matches: int = 0
    decides: int = 0
    example: str = ""
    decided_by: int = 0
    inside_stay: str = ""


def effects(ignore: IgnoreMatcher, seen: Iterable[Seen]) -> list[Effect]:
    """Return the effect of each pattern, in their order; of `seen`, directories come before what is in them."""
    found = [Effect(line) for line in ignore.lines]
    states: dict[str, DirState] = {"": ignore.root}
    brought: dict[str, int] = {}
    for one in seen:
        above, _, name = one.path.rpartition("/")
        state = states[above]
        if one.kind == DIRECTORY:
            states[one.path] = state.enter(name)
        for number in state.own_matches(name):
            _note(found[number], ignore, number, one, state, name)
            if ignore.negated[number] and one.kind == DIRECTORY and not one.line:
                brought[one.path] = number
        if brought and one.line and (top := _above(one.path, brought)):
            effect = found[brought[top]]
            if not effect.decides:
                effect.inside_stay = effect.inside_stay or top
    return found


def _note(effect: Effect, ignore: IgnoreMatcher, number: int, one: Seen, state: DirState, name: str) -> None:
    effect.matches += 1
    _, asked = state.verdict(name)
    if number in asked and number not in state.matched:
        if not effect.decides:
            effect.example = one.path
        effect.decides += 1
    elif not effect.example:
        effect.example = one.path
        earlier = [index for index in asked if index < number]
        effect.decided_by = ignore.lines[earlier[-1]] if earlier else 0


def _above(path: str, tops: dict[str, int]) -> str:
    """Return the nearest directory above a path that is in `tops`, "" for none."""
    while "/" in path:
        path = path.rpartition("/")[0]
        if path in tops:
            return path
    return ""
