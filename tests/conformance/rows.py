"""One file, directory or link a line: how cases say what a context holds, and expectations what a layer holds.

`KIND PATH [MODE] [UID:GID] [CONTENT] [-> TARGET] [MAJOR,MINOR] [NAME=VALUE] [@MTIME]`; a path or content with other
than plain characters is a JSON string. Content is a JSON string, or `sha256:DIGEST` where it is long or not text.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

KINDS = ("file", "dir", "symlink", "hardlink", "fifo", "char", "block", "whiteout", "opaque")
LONGEST = 100
"""Content of up to this many bytes is written out."""

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\S+')
_PLAIN = re.compile(r"[^\s\"\\@]+")


@dataclass(frozen=True)
class Row:
    """A path and what is said of it; `None` is not said. `mtime` is in seconds."""

    kind: str
    path: str
    mode: int | None = None
    owner: tuple[int, int] | None = None
    content: bytes | str | None = None
    link: str | None = None
    device: tuple[int, int] | None = None
    xattrs: dict[str, str] = field(default_factory=dict)
    mtime: int | None = None

    def line(self) -> str:
        """Return the row as a line."""
        words = [self.kind, _quoted(self.path)]
        if self.mode is not None:
            words.append(f"{self.mode:04o}")
        if self.owner is not None:
            words.append("{}:{}".format(*self.owner))
        if isinstance(self.content, bytes):
            words.append(shown(self.content))
        elif self.content is not None:
            words.append(self.content)
        if self.link is not None:
            words += ["->", _quoted(self.link)]
        if self.device is not None:
            words.append("{},{}".format(*self.device))
        words += [f"{name}={value}" for name, value in sorted(self.xattrs.items())]
        if self.mtime is not None:
            words.append(f"@{self.mtime}")
        return " ".join(words)


def shown(content: bytes) -> str:
    """Return content as a line has it."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = ""
    if len(content) <= LONGEST and (text or not content) and "\0" not in text:
        return json.dumps(text, ensure_ascii=False)
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text) and text != "->":
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _unquoted(word: str) -> str:
    return str(json.loads(word)) if word.startswith('"') else word


def parse_row(line: str) -> Row:
    """Return the row a line tells; raise ValueError for anything else."""
    words = _TOKEN.findall(line)
    if len(words) < 2 or words[0] not in KINDS:
        raise ValueError(f"not a row: {line}")
    said: dict[str, object] = {"kind": words[0], "path": _unquoted(words[1])}
    xattrs: dict[str, str] = {}
    rest: Iterator[str] = iter(words[2:])
    for word in rest:
        if word.startswith('"'):
            said["content"] = json.loads(word).encode()
        elif word.startswith("sha256:"):
            said["content"] = word
        elif word == "->":
            said["link"] = _unquoted(next(rest))
        elif re.fullmatch("[0-7]{4}", word):
            said["mode"] = int(word, 8)
        elif found := re.fullmatch(r"(\d+):(\d+)", word):
            said["owner"] = int(found[1]), int(found[2])
        elif found := re.fullmatch(r"(\d+),(\d+)", word):
            said["device"] = int(found[1]), int(found[2])
        elif found := re.fullmatch(r"@(\d+)", word):
            said["mtime"] = int(found[1])
        elif found := re.fullmatch(r"([\w.]+)=([0-9a-f]+)", word):
            xattrs[found[1]] = found[2]
        else:
            raise ValueError(f"{word!r} means nothing in the row: {line}")
    return Row(xattrs=xattrs, **said)  # type: ignore[arg-type]
