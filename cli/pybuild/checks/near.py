"""The known name that an unknown one is most likely a slip of, by the same measure as BuildKit's."""

from collections.abc import Iterable
from itertools import islice

MOST = 2
"""Most insertions, deletions and replacements of letters between a slip and what was meant."""


MAX_NAMES = 1000
"""Most names that one is compared with."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the first of the nearest names, "" when none is near."""
    found, least = "", MOST + 1
    for name in islice(known, MAX_NAMES):
        # Nothing nearer can come of a greater difference in length, and long texts are dear to compare
        if abs(len(name) - len(word)) < least and (distance := _distance(word, name)) < least:
            found, least = name, distance
    return found


def _distance(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for count, letter in enumerate(one, 1):
        before, row[0] = row[0], count
        for place, another in enumerate(other, 1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (letter != another))
    return row[-1]
