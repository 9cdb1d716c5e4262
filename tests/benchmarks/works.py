"""The pieces of work that are measured: a context, a Dockerfile and what is done with them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FIRST, CACHED, CHANGED = "first", "cached", "one file changed"


@dataclass(frozen=True)
class Work:
    """A build. `phases` are run one after the other: FIRST finds nothing in the cache.

    `wanted` is the part of buildah's time that ours may take, by phase. `alone` has the tool start from
    nothing running.
    """

    name: str
    dockerfile: str
    fill: Callable[[Path, float], None]
    phases: tuple[str, ...] = (FIRST,)
    wanted: float = 0.5
    alone: bool = False


def _nothing(context: Path, scale: float) -> None:
    (context / "file").write_text("one file\n")


def _files(count: int, directories: int, size: int) -> Callable[[Path, float], None]:
    def fill(context: Path, scale: float) -> None:
        todo = max(1, int(count * scale))
        for number in range(todo):
            directory = context / "tree" / f"directory-{number % max(1, int(directories * scale)):03}"
            directory.mkdir(parents=True, exist_ok=True)
            # Incompressible and all different, as far as it goes.
            (directory / f"file-{number:05}").write_bytes(os.urandom(size))

    return fill


def _big(context: Path, scale: float) -> None:
    block = os.urandom(1 << 20)
    for number in range(5):
        with open(context / f"big-{number}", "wb") as out:
            for place in range(max(1, int(250 * scale))):
                out.write(place.to_bytes(8, "big") + bytes([number]) + block[9:])


def _ignored(context: Path, scale: float) -> None:
    _files(50_000, 500, 200)(context, scale)
    (context / ".dockerignore").write_text("tree\n!tree/directory-000/file-00000\n")
    (context / "file").write_text("one file\n")


def _steps(context: Path, scale: float) -> None:
    for number in range(10):
        (context / f"file-{number}").write_text(f"{number}\n")


_SLEEPS = "".join(f"FROM base AS s{n}\nARG NONCE\nRUN sleep 2 && echo {n} > /out-{n}\n" for n in range(4))

WORKS = (
    Work(
        "20 steps",
        "FROM base\nARG NONCE\n" + "".join(f"RUN echo {n} > /run-{n}\nCOPY file-{n} /copied/\n" for n in range(10)),
        _steps,
        (FIRST, CACHED),
    ),
    Work(
        "COPY of 20,000 files (100 MB)",
        "FROM base\nARG NONCE\nLABEL nonce=$NONCE\nWORKDIR /n$NONCE\nCOPY tree /tree\n",
        _files(20_000, 500, 5000),
        (FIRST, CACHED, CHANGED),
    ),
    Work("COPY of 1.25 GB in five files", "FROM base\nARG NONCE\nWORKDIR /n$NONCE\nCOPY . /big/\n", _big),
    Work(
        "40 RUN steps",
        "FROM base\nARG NONCE\n" + "".join(f"RUN echo {n} > /run-{n}\n" for n in range(40)),
        _nothing,
        wanted=0.1,
    ),
    Work(
        "a RUN that writes 20,000 files",
        "FROM base\nARG NONCE\n"
        "RUN mkdir /out && cd /out && i=0 && while [ $i -lt 20000 ]; do echo $i > $i; i=$((i+1)); done\n",
        _nothing,
    ),
    Work(
        "four stages of `sleep 2`",
        _SLEEPS + "FROM base\n" + "".join(f"COPY --from=s{n} /out-{n} /\n" for n in range(4)),
        _nothing,
    ),
    Work(
        "50,000 files, nearly all ignored",
        "FROM base\nARG NONCE\nWORKDIR /n$NONCE\nCOPY . /tree/\n",
        _ignored,
        (FIRST, CACHED),
    ),
    Work("first build, nothing running", "FROM base\nARG NONCE\nWORKDIR /n$NONCE\nCOPY file /\n", _nothing, alone=True),
)
