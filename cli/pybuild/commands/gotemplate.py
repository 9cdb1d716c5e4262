"""The part of Go's text/template that `--format` is used for.

    template   = { text | "{{" [ "- " ] action [ " -" ] "}}" }
    action     = pipeline | "if" pipeline | "range" pipeline | "with" pipeline | "else" [ "if" pipeline ] | "end"
               | "/*" comment "*/"
    pipeline   = [ "$name" ( ":=" | "=" ) ] command { "|" command }
    command    = operand { operand }             the first may be the name of a function
    operand    = "." | { "." name } | "$" { "." name } | "$name" { "." name } | string | number | "true" | "false"
               | "nil" | "(" pipeline ")" { "." name }

Values are JSON values. See https://pkg.go.dev/text/template and docker's own functions (json, join, table ...).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pybuild.errors import UsageError

_ACTION = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>"(?:\\.|[^"\\])*"|`[^`]*`)
    | (?P<number>-?\d+(?:\.\d+)?)
    | (?P<field>\.[A-Za-z_][A-Za-z0-9_]*)
    | (?P<name>\$?[A-Za-z_][A-Za-z0-9_]*|\$)
    | (?P<sign>:=|[.|()=])
    )""",
    re.VERBOSE,
)


class TemplateError(UsageError):
    """A template that is malformed or asks for what is not there."""


@dataclass(slots=True)
class _Text:
    text: str


@dataclass(slots=True)
class _Output:
    pipeline: "_Pipeline"


@dataclass(slots=True)
class _Block:
    """`if`, `range` or `with`."""

    kind: str
    pipeline: "_Pipeline"
    body: "list[_Node]" = field(default_factory=list)
    otherwise: "list[_Node]" = field(default_factory=list)


_Node = _Text | _Output | _Block


@dataclass(slots=True)
class _Pipeline:
    commands: "list[list[_Operand]]"
    variable: str = ""


@dataclass(slots=True)
class _Operand:
    """`kind` is value, dot, variable, function or group; `fields` are taken from what it gives, in order."""

    kind: str
    value: Any = None
    fields: tuple[str, ...] = ()


class Template:
    """A parsed template."""

    def __init__(self, nodes: list[_Node]) -> None:
        self._nodes = nodes

    def render(self, value: Any) -> str:
        """Return the text for `value`; raise TemplateError for a field that is not there."""
        out: list[str] = []
        _render(self._nodes, value, {"$": value}, out)
        return "".join(out)


def parse_template(text: str) -> Template:
    """Return the template in `text`; raise TemplateError."""
    root: list[_Node] = []
    # What is open: the block, and whether we are in its else; None for the root
    stack: list[tuple[_Block | None, list[_Node], bool]] = [(None, root, False)]
    position, trim_next = 0, False
    for match in _ACTION.finditer(text):
        before = text[position : match.start()]
        before = before.lstrip() if trim_next else before
        before = before.rstrip() if match[1] else before
        if before:
            stack[-1][1].append(_Text(before))
        _action(match[2].strip(), stack)
        position, trim_next = match.end(), bool(match[3])
    rest = text[position:]
    if "{{" in rest:
        raise TemplateError(f"unclosed action in the template: {rest[rest.index('{{') :][:60]}")
    rest = rest.lstrip() if trim_next else rest
    if rest:
        stack[-1][1].append(_Text(rest))
    open_block = stack[-1][0]
    if open_block is not None:
        raise TemplateError(f"`{open_block.kind}` without `end` in the template")
    return Template(root)


def _action(source: str, stack: list[tuple[_Block | None, list[_Node], bool]]) -> None:
    if source.startswith("/*") and source.endswith("*/"):
        return
    word, _, rest = source.partition(" ")
    if word in ("if", "range", "with"):
        block = _Block(word, _parse(rest))
        stack[-1][1].append(block)
        stack.append((block, block.body, False))
    elif word == "else":
        block_open, _, in_else = stack[-1]
        if block_open is None or in_else:
            raise TemplateError("`else` without `if`, `range` or `with` in the template")
        stack[-1] = (block_open, block_open.otherwise, True)
        if rest.strip():
            again, _, condition = rest.strip().partition(" ")
            if again != "if":
                raise TemplateError(f"unexpected after `else` in the template: {rest.strip()}")
            # `else if` is an `if` in the else, closed by the same `end`
            nested = _Block("if", _parse(condition))
            block_open.otherwise.append(nested)
            stack[-1] = (nested, nested.body, False)
    elif source == "end":
        if stack[-1][0] is None:
            raise TemplateError("`end` without `if`, `range` or `with` in the template")
        stack.pop()
    elif source:
        stack[-1][1].append(_Output(_parse(source)))
    else:
        raise TemplateError("empty action `{{}}` in the template")


class _Tokens:
    def __init__(self, source: str) -> None:
        self.source = source
        self.items: list[tuple[str, str, bool]] = []
        position = 0
        source = source.rstrip()
        while position < len(source):
            match = _TOKEN.match(source, position)
            if match is None:
                raise TemplateError(f"cannot understand the template at: {source[position:].strip()[:60]}")
            kind = str(match.lastgroup)
            # A field that follows something without a space belongs to it
            joined = match.start(kind) == position and position > 0
            self.items.append((kind, match[kind], joined))
            position = match.end()
        self.at = 0

    def peek(self) -> tuple[str, str, bool]:
        return self.items[self.at] if self.at < len(self.items) else ("end", "", False)

    def next(self) -> tuple[str, str, bool]:
        item = self.peek()
        self.at += 1
        return item


def _parse(source: str) -> _Pipeline:
    tokens = _Tokens(source)
    pipeline = _pipeline(tokens)
    kind, text, _ = tokens.peek()
    if kind != "end":
        raise TemplateError(f"unexpected in the template: {text}")
    return pipeline


def _pipeline(tokens: _Tokens) -> _Pipeline:
    variable = ""
    if len(tokens.items) > tokens.at + 1:
        first, second = tokens.items[tokens.at], tokens.items[tokens.at + 1]
        if first[0] == "name" and first[1].startswith("$") and second[1] in (":=", "="):
            variable = first[1]
            tokens.at += 2
    commands = [_command(tokens)]
    while tokens.peek()[1] == "|" and tokens.peek()[0] == "sign":
        tokens.next()
        commands.append(_command(tokens))
    return _Pipeline(commands, variable)


def _command(tokens: _Tokens) -> list[_Operand]:
    operands: list[_Operand] = []
    while True:
        kind, text, _ = tokens.peek()
        if kind == "end" or (kind == "sign" and text in "|)"):
            break
        operands.append(_operand(tokens))
    if not operands:
        raise TemplateError(f"something is missing in the template: {tokens.source.strip() or '{{}}'}")
    return operands


_CONSTANTS = {"true": True, "false": False, "nil": None}


def _operand(tokens: _Tokens) -> _Operand:
    kind, text, _ = tokens.next()
    if kind == "string":
        return _Operand("value", text[1:-1] if text[0] == "`" else _unquote(text[1:-1]))
    if kind == "number":
        return _Operand("value", float(text) if "." in text else int(text))
    if kind == "field":
        return _Operand("dot", fields=(text[1:], *_fields(tokens)))
    if kind == "name":
        if text.startswith("$"):
            return _Operand("variable", text, _fields(tokens))
        if text in _CONSTANTS:
            return _Operand("value", _CONSTANTS[text])
        if text not in _FUNCTIONS:
            raise TemplateError(f"unknown function in the template: {text}", f"known: {', '.join(sorted(_FUNCTIONS))}")
        return _Operand("function", text)
    if text == ".":
        return _Operand("dot")
    if text == "(":
        pipeline = _pipeline(tokens)
        if tokens.next()[1] != ")":
            raise TemplateError(f"unclosed `(` in the template: {tokens.source.strip()}")
        return _Operand("group", pipeline, _fields(tokens))
    raise TemplateError(f"unexpected in the template: {text}")


def _fields(tokens: _Tokens) -> tuple[str, ...]:
    fields: list[str] = []
    while tokens.peek()[0] == "field" and tokens.peek()[2]:
        fields.append(tokens.next()[1][1:])
    return tuple(fields)


def _unquote(text: str) -> str:
    known = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}
    return re.sub(r"\\(.)", lambda match: known.get(match[1], match[0]), text)


def _render(nodes: list[_Node], dot: Any, variables: dict[str, Any], out: list[str]) -> None:
    for node in nodes:
        if isinstance(node, _Text):
            out.append(node.text)
        elif isinstance(node, _Output):
            value = _evaluate(node.pipeline, dot, variables)
            if not node.pipeline.variable:
                out.append(_show(value))
        else:
            _render_block(node, dot, variables, out)


def _render_block(block: _Block, dot: Any, variables: dict[str, Any], out: list[str]) -> None:
    scope = dict(variables)
    value = _evaluate(block.pipeline, dot, scope)
    if block.kind == "range":
        items: list[Any]
        if isinstance(value, Mapping):
            # Go ranges over a map in the order of its keys
            items = [value[key] for key in sorted(value)]
        elif isinstance(value, list):
            items = value
        elif value is None:
            items = []
        else:
            raise TemplateError(f"`range` in the template cannot go over: {_show(value)[:60]}")
        for item in items:
            if block.pipeline.variable:
                scope[block.pipeline.variable] = item
            _render(block.body, item, scope, out)
        if not items:
            _render(block.otherwise, dot, scope, out)
    elif _true(value):
        _render(block.body, value if block.kind == "with" else dot, scope, out)
    else:
        _render(block.otherwise, dot, scope, out)


def _evaluate(pipeline: _Pipeline, dot: Any, variables: dict[str, Any]) -> Any:
    value: Any = None
    for number, command in enumerate(pipeline.commands):
        piped = [value] if number else []
        first = command[0]
        if first.kind == "function":
            arguments = [_value(operand, dot, variables) for operand in command[1:]] + piped
            value = _call(first.value, arguments)
        elif len(command) > 1 or piped:
            raise TemplateError("in the template only a function takes arguments")
        else:
            value = _value(first, dot, variables)
    if pipeline.variable:
        variables[pipeline.variable] = value
    return value


def _value(operand: _Operand, dot: Any, variables: dict[str, Any]) -> Any:
    value: Any
    if operand.kind == "value":
        return operand.value
    if operand.kind == "function":
        return _call(operand.value, [])
    if operand.kind == "variable":
        if operand.value not in variables:
            raise TemplateError(f"undefined variable in the template: {operand.value}")
        value = variables[operand.value]
    elif operand.kind == "group":
        value = _evaluate(operand.value, dot, variables)
    else:
        value = dot
    path = ""
    for name in operand.fields:
        path += f".{name}"
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, Mapping):
            from pybuild.commands.group import nearest

            near = nearest(name, [str(key) for key in value])
            hint = f"did you mean `.{near}`?" if near else f"there are: {', '.join(map(str, value))}"[:300]
            raise TemplateError(f"no such field: {path}", hint)
        else:
            raise TemplateError(f"no field in what is not an object: {path}")
    return value


def _call(name: str, arguments: list[Any]) -> Any:
    function, least, most = _FUNCTIONS[name]
    if not least <= len(arguments) <= most:
        raise TemplateError(f"wrong number of arguments in the template: {name}")
    try:
        return function(*arguments)
    except (TypeError, ValueError, AttributeError, IndexError, KeyError) as error:
        raise TemplateError(f"`{name}` in the template cannot take its arguments: {error}") from error


def _show(value: Any) -> str:
    """Return a value as Go prints it."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{key}:{_show(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list | tuple):
        return "[" + " ".join(map(_show, value)) + "]"
    return str(value)


def _true(value: Any) -> bool:
    return value not in (None, False, "", 0) and not (hasattr(value, "__len__") and len(value) == 0)


def _json(value: Any) -> str:
    from pybuild.commands.output import as_json

    return as_json(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        # A missing key of a map gives nothing, as in Go; a list must have the place
        value = value.get(str(key)) if isinstance(value, Mapping) else value[int(key)]
    return value


def _slice(value: Any, *bounds: int) -> Any:
    return value[slice(*bounds)] if len(bounds) > 1 else value[bounds[0] if bounds else 0 :]


def _truncate(value: str, width: int) -> str:
    return value[:width]


def _join(value: Any, separator: str) -> str:
    return separator.join(map(_show, value or []))


_ALL = 99
_FUNCTIONS: dict[str, tuple[Callable[..., Any], int, int]] = {
    "json": (_json, 1, 1),
    "join": (_join, 2, 2),
    "split": (lambda value, separator: value.split(separator), 2, 2),
    "upper": (lambda value: value.upper(), 1, 1),
    "lower": (lambda value: value.lower(), 1, 1),
    "title": (lambda value: value.title(), 1, 1),
    "pad": (lambda value, before, after: " " * before + value + " " * after, 3, 3),
    "truncate": (_truncate, 2, 2),
    "println": (lambda *values: " ".join(map(_show, values)) + "\n", 0, _ALL),
    "print": (lambda *values: "".join(map(_show, values)), 0, _ALL),
    "printf": (lambda form, *values: re.sub(r"%v", "%s", form) % tuple(map(_plain, values)), 1, _ALL),
    "len": (lambda value: 0 if value is None else len(value), 1, 1),
    "index": (_index, 1, _ALL),
    "slice": (_slice, 1, 3),
    "not": (lambda value: not _true(value), 1, 1),
    "and": (lambda *values: next((value for value in values if not _true(value)), values[-1]), 1, _ALL),
    "or": (lambda *values: next((value for value in values if _true(value)), values[-1]), 1, _ALL),
    "eq": (lambda value, *others: any(value == other for other in others), 2, _ALL),
    "ne": (lambda one, other: one != other, 2, 2),
    "lt": (lambda one, other: one < other, 2, 2),
    "le": (lambda one, other: one <= other, 2, 2),
    "gt": (lambda one, other: one > other, 2, 2),
    "ge": (lambda one, other: one >= other, 2, 2),
}


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else _show(value)
