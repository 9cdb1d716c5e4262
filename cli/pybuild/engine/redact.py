"""Secrets are not shown: what a RUN writes goes through here."""

from collections.abc import Callable, Iterable

MASK = "****"

SHORTEST = 6
"""Characters a value has at least to be looked for: shorter ones are found in ordinary words."""

MAX_LINES = 200
"""Secrets of more lines are only looked for as a whole: each line is searched for in all that a RUN writes."""


class Redactor:
    """Takes pieces of a text and tells it on without secrets, which may lie across pieces.

    What could be the beginning of one is held back until the next piece, or `finish`.
    """

    def __init__(self, secrets: Iterable[bytes], tell: Callable[[str], None]) -> None:
        values = {value for secret in secrets for value in _values(secret)}
        # A secret may hold another one
        self._values = sorted(values, key=len, reverse=True)
        self._tell = tell
        self._held = ""

    def feed(self, text: str) -> None:
        """Take the next piece."""
        text = self._held + text
        for value in self._values:
            text = text.replace(value, MASK)
        kept = max((_overlap(text, value) for value in self._values), default=0)
        self._held = text[len(text) - kept :]
        if shown := text[: len(text) - kept]:
            self._tell(shown)

    def finish(self) -> None:
        """Tell the rest."""
        held, self._held = self._held, ""
        if held:
            self._tell(held)


def _values(secret: bytes) -> list[str]:
    """Return what to look for: the whole, and each line of it, as programs print keys and files line by line."""
    text = secret.decode(errors="replace").strip()
    lines = text.splitlines()
    found = [text, *(line.strip() for line in lines if len(lines) <= MAX_LINES)]
    return [value for value in found if len(value) >= SHORTEST]


def _overlap(text: str, value: str) -> int:
    """Return how many characters at the end of `text` are the beginning of `value`, not all of it."""
    first = value[0]
    start = max(0, len(text) - len(value) + 1)
    while (start := text.find(first, start)) >= 0:
        if value.startswith(text[start:]):
            return len(text) - start
        start += 1
    return 0
