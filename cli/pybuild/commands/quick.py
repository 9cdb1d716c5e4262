"""Ordinary command lines without typer, whose import takes longer than a cached build.

Only what needs no thought is read here: known options with their values, flags and arguments. For all else, such
as `--help`, a mistake, or several short flags in one word, the answer is None, and typer has the say. A
property test holds that both understand the same.
"""

import re
from collections.abc import Callable, Sequence
from types import NoneType, UnionType
from typing import Any, get_args

from pybuild.commands.option import Argument, Option

DEBUG = ("-v", "--debug")
HOST = "--host"

_NUMBER = re.compile(r"-?[0-9]{1,18}")


def parse(function: Callable[..., Any], words: Sequence[str]) -> dict[str, Any] | None:
    """Return the arguments for a command's function, `debug` and `host` among them; None when typer is to read."""
    command = _Command(function)
    if not command.readable:
        return None
    values: dict[str, Any] = {}
    left: list[str] = []
    words = list(words)
    while words:
        word = words.pop(0)
        if word == "--":
            left += words
            break
        if word in DEBUG:
            values["debug"] = True
        elif word == HOST or word.startswith(HOST + "="):
            _, equals, text = word.partition("=")
            if not equals and not words:
                return None
            values["host"] = text if equals else words.pop(0)
        elif len(word) < 2 or word[0] != "-":
            left.append(word)
        elif not command.take(word, words, values):
            return None
    return values if command.place(left, values) else None


class _Command:
    """The parameters of a function, by the words that name them."""

    def __init__(self, function: Callable[..., Any]) -> None:
        code, defaults = function.__code__, function.__defaults__ or ()
        names = code.co_varnames[: code.co_argcount]
        self._required = set(names[: len(names) - len(defaults)])
        self._flags: dict[str, tuple[str, bool]] = {}
        self._options: dict[str, tuple[str, set[Any]]] = {}
        self._bare: dict[str, str] = {}
        self._arguments: list[tuple[str, bool]] = []
        self.readable = all(self._read(name, function.__annotations__[name]) for name in names)

    def _read(self, name: str, annotation: Any) -> bool:
        found, *marks = get_args(annotation) or (None,)
        kinds = set(get_args(found)) - {NoneType} if isinstance(found, UnionType) else {found}
        mark = marks[0] if marks else None
        if isinstance(mark, Argument) and kinds <= {str, list[str]}:
            self._arguments.append((name, list[str] in kinds))
        elif isinstance(mark, Option) and kinds == {bool}:
            for names in mark.names:
                yes, _, no = names.partition("/")
                self._flags[yes] = (name, True)
                if no:
                    self._flags[no] = (name, False)
        elif isinstance(mark, Option) and kinds <= {str, int, list[str]}:
            for option in mark.names or (f"--{name.replace('_', '-')}",):
                self._options[option] = (name, kinds)
                if mark.bare:
                    self._bare[option] = mark.bare
        else:
            return False
        return True

    def take(self, word: str, words: list[str], values: dict[str, Any]) -> bool:
        """Read an option, and its value from the front of `words`; tell whether it could be."""
        if word in self._flags:
            name, value = self._flags[word]
            values[name] = value
            return True
        text: str | None = None
        if word.startswith("--"):
            word, equals, rest = word.partition("=")
            text = rest if equals else self._bare.get(word)
        elif len(word) > 2 and word[2] != "=":
            word, text = word[:2], word[2:]
        if word not in self._options or (text is None and not words):
            return False
        name, kinds = self._options[word]
        text = words.pop(0) if text is None else text
        if int in kinds:
            if not _NUMBER.fullmatch(text):
                return False
            values[name] = int(text)
        elif list[str] in kinds:
            values.setdefault(name, []).append(text)
        else:
            values[name] = text
        return True

    def place(self, words: list[str], values: dict[str, Any]) -> bool:
        """Give the positional words to arguments; tell whether they fit."""
        if "" in words:
            return False
        for name, several in self._arguments:
            if several:
                # None at all is what the default is for
                if words:
                    values[name], words = words, []
            elif words:
                values[name], *words = words
        return not words and all(values.get(name) for name in self._required)


def with_bare_values(function: Callable[..., Any], words: Sequence[str]) -> list[str]:
    """Return the words of a command with the values of options that are said without one, for typer."""
    bare = {
        option: mark.bare
        for name, annotation in function.__annotations__.items()
        for mark in get_args(annotation)[1:]
        if isinstance(mark, Option) and mark.bare
        for option in mark.names or (f"--{name.replace('_', '-')}",)
    }
    end = words.index("--") if "--" in words else len(words)
    return [f"{word}={bare[word]}" if word in bare and at < end else word for at, word in enumerate(words)]
