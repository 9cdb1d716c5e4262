"""Findings as they are collected: silenced ones left out, the others with the place of what they speak of."""

from pybuild.api.events import Finding
from pybuild.checks.rules import RULES
from pybuild.dockerfile.directives import Check, parse_check
from pybuild.dockerfile.errors import InvalidValueError, Span
from pybuild.dockerfile.instructions import Located

MAX_FINDINGS = 1000
"""Most findings of a file; nobody reads more, and each takes a search in its line."""

MAX_SUGGESTIONS = 100
"""Most names of a file for which a near one is looked for: a search takes up to a few milliseconds."""

_LOCAL = "check="


class Report:
    """Collects the findings of one file."""

    def __init__(self, text: str, settings: Check) -> None:
        self._lines = text.split("\n")
        self._settings = settings
        self._findings: list[Finding] = []
        self._suggestions = 0

    @property
    def is_full(self) -> bool:
        """Are there so many findings that no more are taken?"""
        return len(self._findings) >= MAX_FINDINGS

    def may_suggest(self) -> bool:
        """Count a search for what was meant; tell whether there is time for another one."""
        self._suggestions += 1
        return self._suggestions <= MAX_SUGGESTIONS

    def add(self, rule: str, at: Located, message: str, mark: str = "", *, last: bool = False) -> None:
        """Take a finding about an instruction, unless the rule is silenced.

        `mark` is the part it is about, with `last` the last such word of its line.
        """
        if self._speaks(rule, at.comments):
            self._findings.append(self._placed(rule, message, at.span, mark, last))

    def add_line(self, rule: str, message: str, line: int, comments: tuple[str, ...] = ()) -> None:
        """Take a finding about a line."""
        if self._speaks(rule, comments):
            self._findings.append(self._placed(rule, message, Span(line, line, 1, 1), "", False))

    def findings(self) -> list[Finding]:
        """Return what was found, in the order of the file and each only once."""
        return sorted(dict.fromkeys(self._findings), key=lambda finding: finding.line)

    def _speaks(self, rule: str, comments: tuple[str, ...]) -> bool:
        if self.is_full:
            return False
        if RULES[rule].experimental:
            # As in BuildKit, whoever asks for a rule by name need not be protected from it by skip=all
            return self._settings.experimental_all or rule in self._settings.experimental
        return not self._settings.skips(rule) and not any(_skips(comment, rule) for comment in comments)

    def _placed(self, rule: str, message: str, span: Span, mark: str, last: bool) -> Finding:
        place = (span.start_line, 0, 0)
        for number in range(span.start_line, span.end_line + 1):
            line = self._lines[number - 1].rstrip("\r")
            if mark and (start := _find_word(line, mark, last)) >= 0:
                place = (number, start + 1, len(mark))
                break
        else:
            whole = self._lines[span.start_line - 1].rstrip("\r")
            written = whole.strip()
            if written:
                place = (span.start_line, whole.index(written) + 1, len(written))
        return Finding(rule, message, span.start_line, span.end_line, *place)


def _skips(comment: str, rule: str) -> bool:
    """Is the comment one that silences the rule for the instruction below it?"""
    if not comment.lower().startswith(_LOCAL):
        return False
    try:
        return parse_check(comment[len(_LOCAL) :].split(" ", 1)[0]).skips(rule)
    except InvalidValueError:
        # Above an instruction anything may be written; only the directive of the file has to be right
        return False


def _find_word(line: str, mark: str, last: bool) -> int:
    """Return where `mark` stands in the line, as a word of its own if it does so anywhere, -1 when it does not."""
    words: list[int] = []
    start = line.find(mark)
    while start >= 0:
        around = line[start - 1 : start] + line[start + len(mark) : start + len(mark) + 1]
        if not any(char.isalnum() or char == "_" for char in around):
            words.append(start)
        start = line.find(mark, start + 1)
    return words[-1 if last else 0] if words else line.find(mark)
