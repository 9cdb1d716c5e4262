"""Wildcard patterns of ignore files, matched in linear time.

A pattern is a list of tokens, many patterns run at once in one automaton, and every name costs one pass over
its characters however the patterns look: there is nothing to backtrack into. The language is the one of
Docker's ignore files (Dockerfile reference, ".dockerignore file"):

    *      any run of characters but "/"          [a-z] [^a]   one character of a class, or not of it
    ?      one character but "/"                  \\x           the character x itself
    **     any number of directories, also none; at the end everything, "/" included
"""

from collections.abc import Iterable, Sequence
from enum import Enum

import msgspec


class Wild(Enum):
    """Tokens that stand for more than themselves."""

    ANY = "?"
    STAR = "*"
    GLOBSTAR = "**/"


class CharClass(msgspec.Struct, frozen=True):
    """One `[...]`: inclusive ranges of characters, perhaps negated."""

    negated: bool
    ranges: tuple[tuple[str, str], ...]

    def has(self, char: str) -> bool:
        """Does the class take `char`? A negated class takes "/" too, as it does for Docker."""
        return any(low <= char <= high for low, high in self.ranges) != self.negated


Token = str | Wild | CharClass  # a str is one literal character


class PatternError(ValueError):
    """A pattern that is not well-formed; the text says what is wrong."""


def tokenize(text: str) -> list[Token]:
    """Return the tokens of a cleaned pattern; raise PatternError when it is malformed.

    `**x` without any other wildcard means "ends with x", so that `**.go` works, while `**x*` only begins
    at the start of a name: both are what Docker does.
    """
    if text.startswith("**") and not any(char in text[2:] for char in "*?[]\\"):
        rest = text[2:]
        if rest.startswith("/") and len(rest) > 1:
            return [Wild.GLOBSTAR, *rest[1:]]
        return [Wild.GLOBSTAR, Wild.STAR, *rest]
    tokens: list[Token] = []
    position, end = 0, len(text)
    while position < end:
        char = text[position]
        position += 1
        if char == "*" and text[position : position + 1] == "*":
            position += 1
            if text[position : position + 1] == "/":
                position += 1
            _append_run(tokens, Wild.GLOBSTAR)
            if position == end:
                _append_run(tokens, Wild.STAR)
        elif char == "*":
            _append_run(tokens, Wild.STAR)
        elif char == "?":
            tokens.append(Wild.ANY)
        elif char == "[":
            found, position = _char_class(text, position)
            tokens.append(found)
        elif char == "\\":
            if position == end:
                raise PatternError("nothing follows the last backslash")
            tokens.append(text[position])
            position += 1
        else:
            tokens.append(char)
    return tokens


def _append_run(tokens: list[Token], wild: Wild) -> None:
    # Twice the same in a row says no more than once
    if not tokens or tokens[-1] is not wild:
        tokens.append(wild)


def _char_class(text: str, position: int) -> tuple[CharClass, int]:
    """class = "[" ["^"] range {range} "]" ; range = char ["-" char] ; char = "\\" any | any but "-" and "]" """
    negated = text[position : position + 1] == "^"
    position += negated
    ranges: list[tuple[str, str]] = []
    while not (ranges and text[position : position + 1] == "]"):
        low, position = _class_char(text, position)
        high = low
        if text[position : position + 1] == "-":
            high, position = _class_char(text, position + 1)
        if low > high:
            raise PatternError(f"the range {low}-{high} is empty")
        ranges.append((low, high))
    return CharClass(negated, tuple(ranges)), position + 1


def _class_char(text: str, position: int) -> tuple[str, int]:
    char = text[position : position + 1]
    if char == "\\":
        position += 1
        char = text[position : position + 1]
    elif char in ("-", "]") and char:
        raise PatternError(f"a bare {char} in a class needs a backslash")
    if not char:
        raise PatternError("a [ without its ]")
    return char, position + 1


class Split(msgspec.Struct, frozen=True):
    """A pattern cut before its last name: `folder` ends where a name begins, `name` has no "/"."""

    folder: tuple[Token, ...]
    name: tuple[Token, ...]


def split(tokens: Sequence[Token]) -> Split | None:
    """Return the two halves, None when they cannot be matched each on its own (as in `a**b` or `[^x]y`)."""
    cut = 0
    for position, token in enumerate(tokens):
        if token == "/":
            cut = position + 1
        elif token is Wild.GLOBSTAR:
            if position and position != cut:
                return None
            cut = position + 1
        elif isinstance(token, CharClass) and token.has("/"):
            return None
    if cut == len(tokens):
        return None
    return Split(tuple(tokens[:cut]), tuple(tokens[cut:]))


def literal(tokens: Sequence[Token]) -> str | None:
    """Return the only text that matches, None when there are wildcards."""
    chars = [token for token in tokens if isinstance(token, str)]
    return "".join(chars) if len(chars) == len(tokens) else None


class State:
    """Where an automaton stands after some text. `bits` is 0 when no pattern can match any more."""

    __slots__ = ("bits", "following", "hits")

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.following: dict[str, State] = {}
        self.hits: tuple[int, ...] | None = None


class Automaton:
    """Many patterns as one set of positions, its reachable sets remembered as they are met.

    One bit is one place in one pattern: the next set follows from the last by shifts and masks, so a new
    step costs O(tokens / word size) and a known one a look-up. What is remembered is bounded: beyond that
    all is forgotten and begun anew; states handed out stay good.
    """

    _MEMORY = 32 << 20

    def __init__(self, rules: Sequence[tuple[Sequence[Token], int]]) -> None:
        """`rules` are patterns and the number that `hits` gives for each."""
        chars: dict[str, list[int]] = {}
        starts: list[int] = []
        anys: list[int] = []
        stars: list[int] = []
        globstars: list[int] = []
        self._classes: list[tuple[int, CharClass]] = []
        self._numbers: dict[int, int] = {}
        self._spans: list[tuple[int, int, int]] = []
        at = 0
        for tokens, number in rules:
            starts.append(at)
            for token in tokens:
                if isinstance(token, str):
                    chars.setdefault(token, []).append(at)
                elif isinstance(token, CharClass):
                    self._classes.append((at, token))
                elif token is Wild.ANY:
                    anys.append(at)
                elif token is Wild.STAR:
                    stars.append(at)
                else:
                    # Two places: before the directories (all may be skipped) and inside them (up to a "/")
                    globstars.append(at)
                    at += 1
                at += 1
            self._numbers[at] = number
            self._spans.append((starts[-1], at + 1, number))
            at += 1
        self._size = at
        self._chars = {char: _mask(places) for char, places in chars.items()}
        self._any = _mask(anys)
        self._star = _mask(stars)
        self._outside = _mask(globstars)
        self._inside = self._outside << 1
        self._accept = _mask(self._numbers)
        self._start_bits = self._skip(_mask(starts))
        self._advance: dict[str, int] = {}
        self._states: dict[int, State] = {}
        self._left = self._MEMORY
        self.dead = State(0)
        self.start = self._state(self._start_bits)

    def mask_of(self, numbers: set[int]) -> int:
        """Return the bits of the patterns with these numbers, to see in `State.bits` if one may still match."""
        places: list[int] = []
        for begin, end, number in self._spans:
            if number in numbers:
                places.extend(range(begin, end))
        return _mask(places)

    def run(self, state: State, text: str) -> State:
        """Return the state after `text`."""
        for char in text:
            following = state.following.get(char)
            if following is None:
                following = self._step(state, char)
            state = following
            if not state.bits:
                break
        return state

    def hits(self, state: State) -> tuple[int, ...]:
        """Return the numbers of the patterns that match all the text that led to `state`, ascending."""
        if state.hits is None:
            bits = state.bits & self._accept
            found: list[int] = []
            if bits:
                text = bin(bits)
                last = len(text) - 1
                place = text.find("1", 2)
                while place >= 0:
                    found.append(self._numbers[last - place])
                    place = text.find("1", place + 1)
            state.hits = tuple(sorted(found))
        return state.hits

    def _step(self, state: State, char: str) -> State:
        if self._left < 0:
            self._left = self._MEMORY
            self._states.clear()
            self._advance.clear()
            state.following.clear()
            self.start = self._state(self._start_bits)
        advance = self._advance.get(char)
        if advance is None:
            advance = self._chars.get(char, 0) | _mask([at for at, token in self._classes if token.has(char)])
            advance |= self._inside if char == "/" else self._any
            self._advance[char] = advance
            self._left -= self._size // 8 + 150
        bits = state.bits
        stay = self._inside if char == "/" else self._inside | self._star
        following = self._state(self._skip(((bits & advance) << 1) | (bits & stay)))
        state.following[char] = following
        self._left -= 150
        return following

    def _skip(self, bits: int) -> int:
        """Add the places that are reached without a character."""
        while True:
            more = bits | (bits & (self._star | self._outside)) << 1 | (bits & self._outside) << 2
            if more == bits:
                return bits
            bits = more

    def _state(self, bits: int) -> State:
        if not bits:
            return self.dead
        state = self._states.get(bits)
        if state is None:
            state = self._states[bits] = State(bits)
            self._left -= self._size // 4 + 400
        return state


def _mask(places: Iterable[int]) -> int:
    # Setting bits one by one in a big int would copy it each time
    listed = list(places)
    if not listed:
        return 0
    data = bytearray(max(listed) // 8 + 1)
    for place in listed:
        data[place >> 3] |= 1 << (place & 7)
    return int.from_bytes(data, "little")


class NameIndex:
    """Patterns of single names, found by hashing where they allow it: `x`, `*`, `*.x` and `x*` never run."""

    __slots__ = ("_always", "_automaton", "_literal", "_prefixes", "_suffixes", "running")

    def __init__(self, rules: Sequence[tuple[Sequence[Token], int]]) -> None:
        """`rules` are token lists without "/" and their numbers."""
        literals: dict[str, list[int]] = {}
        prefixes: dict[int, dict[str, list[int]]] = {}
        suffixes: dict[int, dict[str, list[int]]] = {}
        always: list[int] = []
        others: list[tuple[Sequence[Token], int]] = []
        for tokens, number in rules:
            whole = literal(tokens)
            front, back = literal(tokens[:-1]), literal(tokens[1:])
            if whole is not None:
                literals.setdefault(whole, []).append(number)
            elif len(tokens) == 1 and tokens[0] is Wild.STAR:
                always.append(number)
            elif tokens[0] is Wild.STAR and back is not None:
                suffixes.setdefault(len(back), {}).setdefault(back, []).append(number)
            elif tokens[-1] is Wild.STAR and front is not None:
                prefixes.setdefault(len(front), {}).setdefault(front, []).append(number)
            else:
                others.append((tokens, number))
        self._literal = {name: tuple(sorted(found)) for name, found in literals.items()}
        self._prefixes = [(size, {k: tuple(v) for k, v in table.items()}) for size, table in prefixes.items()]
        self._suffixes = [(-size, {k: tuple(v) for k, v in table.items()}) for size, table in suffixes.items()]
        self._always = tuple(sorted(always))
        self._automaton = Automaton(others) if others else None
        self.running = sum(len(tokens) for tokens, _ in others)
        """How many tokens could not be put into a table."""

    def hits(self, name: str) -> tuple[int, ...]:
        """Return the numbers of the patterns that match `name`, in no order, none twice."""
        found = self._always
        exact = self._literal.get(name)
        if exact is not None:
            found += exact
        for size, table in self._suffixes:
            ending = table.get(name[size:])
            if ending is not None:
                found += ending
        for size, table in self._prefixes:
            beginning = table.get(name[:size])
            if beginning is not None:
                found += beginning
        automaton = self._automaton
        if automaton is not None:
            state = automaton.run(automaton.start, name)
            if state.bits:
                found += automaton.hits(state)
        return found
