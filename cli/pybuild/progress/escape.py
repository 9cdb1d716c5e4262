"""Untrusted text made harmless to show: no control codes, no tricks with direction, no commands to CI."""

import re

# C0 without tab and newline, DEL, C1, line and paragraph separators, marks that change the direction of text
# (Unicode UAX #9), the byte order mark, and lone surrogates, which no encoder takes.
_CODES = [
    *range(0x09),
    *range(0x0B, 0x20),
    *range(0x7F, 0xA0),
    0x061C,
    0x200E,
    0x200F,
    *range(0x2028, 0x202F),
    *range(0x2066, 0x206A),
    0xFEFF,
]
_TABLE = {code: (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}") for code in _CODES}
_SUSPECT = re.compile("[" + "".join(map(re.escape, map(chr, _CODES))) + "\ud800-\udfff]")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

# GitHub and Gitea obey "::name::" at the start of a line and "##[name]" anywhere, Azure "##vso[",
# TeamCity "##teamcity["
_CI_HASHES = re.compile(r"##(?=\[|vso\[|teamcity\[)")
_CI_COLONS = re.compile(r"^(\s*)::")


def escape(text: str) -> str:
    """Return `text` with colours taken out and other control characters written as `\\xNN` or `\\uNNNN`.

    Tabs and newlines stay. Takes time only when something is to be done.
    """
    if not _SUSPECT.search(text):
        return text
    text = _COLOUR.sub("", text).translate(_TABLE)
    return text.encode("utf-8", "backslashreplace").decode()


def one_line(text: str) -> str:
    """Return `text` escaped and on a single line."""
    return escape(text).replace("\n", "\\n").replace("\t", " ")


def without_commands(line: str) -> str:
    """Return a line that no CI service takes for a command to itself."""
    return _CI_HASHES.sub("# #", _CI_COLONS.sub(r"\1: :", line))


class Lines:
    """Puts the pieces of each step's output together to whole lines, escaped. A carriage return ends a line too."""

    LIMIT = 8000
    """A line longer than this is shown in parts."""

    def __init__(self) -> None:
        self._rest: dict[tuple[int, str], str] = {}

    def feed(self, step: int, stream: str, text: str) -> list[str]:
        """Take a piece and return the lines it completes."""
        key = (step, stream)
        text = self._rest.pop(key, "") + text
        if "\r" in text:
            # A lone \r at the end may be half of \r\n
            held = text.endswith("\r")
            text = (
                text[:-1].replace("\r\n", "\n").replace("\r", "\n") + "\r"
                if held
                else (text.replace("\r\n", "\n").replace("\r", "\n"))
            )
        *lines, rest = text.split("\n")
        while len(rest) > self.LIMIT:
            lines.append(rest[: self.LIMIT])
            rest = rest[self.LIMIT :]
        if rest:
            self._rest[key] = rest
        return [escape(line) for line in lines]

    def flush(self, step: int) -> list[str]:
        """Return the unfinished lines of a step that has ended."""
        keys = [key for key in self._rest if key[0] == step]
        return [escape(self._rest.pop(key).removesuffix("\r")) for key in keys]

    def flush_all(self) -> list[tuple[int, str]]:
        """Return every unfinished line with its step."""
        return [(step, line) for step in sorted({key[0] for key in self._rest}) for line in self.flush(step)]
