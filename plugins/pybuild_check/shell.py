"""What the commands in a shell script are: enough to know which programs are called, not what they do."""

import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

_SEPARATORS = frozenset("();<>|&\n")
_KEYWORDS = frozenset(("if", "then", "else", "elif", "do", "while", "until", "!", "{", "}", "time", "exec", "command"))
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")


class Called(NamedTuple):
    """A command: its words without assignments before them, and the operators that stand before and behind it."""

    words: tuple[str, ...]
    before: str
    behind: str

    @property
    def name(self) -> str:
        return self.words[0].rpartition("/")[2]

    def has(self, *options: str) -> bool:
        """Is one of these options among the words? A single letter may stand with others: `-qy`."""
        for word in self.words[1:]:
            for option in options:
                if word == option or word.startswith(option + "="):
                    return True
                short = len(option) == 2 and re.fullmatch(r"-[A-Za-z]+", word)
                if short and option[1] in word:
                    return True
        return False

    def arguments(self) -> list[str]:
        """Return the words that are no options."""
        return [word for word in self.words[1:] if not word.startswith("-")]


def commands(script: str) -> list[Called]:
    """Return the commands of a script in order, none for one that cannot be read."""
    try:
        return list(_commands(script))
    except ValueError:
        # A quote without its end: the shell will say so
        return []


def _commands(script: str) -> Iterator[Called]:
    lexer = shlex.shlex(script, posix=True, punctuation_chars="".join(_SEPARATORS))
    lexer.whitespace, lexer.commenters, lexer.whitespace_split = " \t\r", "", True
    words: list[str] = []
    before, comment = "", False
    for token in [*lexer, "\n"]:
        if token and set(token) <= _SEPARATORS:
            if "\n" in token:
                comment = False
            if token.strip("<>&") == "" and ("<" in token or ">" in token):
                # A redirection: what follows is a file, as good as any other word
                continue
            if words:
                yield Called(tuple(words), before, token)
            words, before = [], token
        elif comment or (token.startswith("#") and (not words or token == "#")):
            comment = True
        elif words or not (token in _KEYWORDS or _ASSIGNMENT.match(token)):
            words.append(token)
