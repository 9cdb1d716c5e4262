"""What emulated root costs: `tar x` in a RUN, with one id beside many, in turns.

`python tests/benchmarks/emulation.py [--files N] [--rounds N]`, as a user with subordinate ids. Prints seconds of the
`tar` itself and of the whole build, and the processor time of all processes of the build, least and median. On a
machine that does other things too, the processor time is what to look at: caller and supervisor take turns, and on
a quiet machine that is the wall time.
"""

import argparse
import io
import os
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.tools import Pybuild
from support import busybox
from support.program import remove_tree

MODES = ("multi", "single")
OWNERS = (0, 1000, 33, 0)


class Cost(NamedTuple):
    """Seconds: of the command in the RUN, of the build, of the processors."""

    command: float
    build: float
    processors: float


def write_archive(path: Path, files: int) -> None:
    """Write a tar of small files of several owners, in directories of a hundred."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for number in range(files):
            directory = f"tree/{number // 100:03}"
            if number % 100 == 0:
                above = tarfile.TarInfo(directory)
                above.type, above.mode, above.uid = tarfile.DIRTYPE, 0o755, OWNERS[number // 100 % 4]
                archive.addfile(above)
            member = tarfile.TarInfo(f"{directory}/{number:05}")
            member.size, member.uid = 1000, OWNERS[number % 4]
            member.gid = member.uid
            archive.addfile(member, io.BytesIO(b"x" * 1000))


def copy_program(program: str, context: Path) -> None:
    """Copy a program of this machine with its libraries into a directory that will be copied to the root."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for path in [program, *re.findall(r"/\S+", listed)]:
        target = context / "root" / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def build(tool: Pybuild, context: Path, command: str, mode: str) -> Cost:
    """Build once; raise RuntimeError with what was told when that fails."""
    dockerfile = context.parent / "Dockerfile"
    dockerfile.write_text(
        "FROM base\nCOPY root /\nCOPY tree.tar /\nARG NONCE\n"
        f"RUN mkdir /out && cd /out && time -f 'took %e' {command}\n"
    )
    told = os.memfd_create("told")
    line = ["build", "--progress=plain", "--build-arg", f"NONCE={time.time_ns()}", "-f", dockerfile, context]
    begin = time.perf_counter()
    process = subprocess.Popen(
        [*tool.command, *map(str, line)],
        env={**tool.env, "PYBUILD_ID_MODE": mode},
        stdin=subprocess.DEVNULL,
        stdout=told,
        stderr=told,
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    text = os.pread(told, 1 << 20, 0).decode(errors="replace")
    os.close(told)
    took = re.search(r"took ([0-9.]+)$", text, re.MULTILINE)
    if status or not took:
        raise RuntimeError(text)
    return Cost(float(took[1]), seconds, usage.ru_utime + usage.ru_stime)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="pbe-"))
    context = base / "context"
    (context / "root").mkdir(parents=True)
    commands = {"busybox": "tar xf /tree.tar"}
    if program := shutil.which("tar"):
        copy_program(program, context)
        commands["GNU"] = f"{program} xf /tree.tar"
    write_archive(context / "tree.tar", asked.files)
    tool = Pybuild(base, inline=True)
    costs: dict[tuple[str, str], list[Cost]] = defaultdict(list)
    try:
        tool.add_base(busybox.write_rootfs(base / "base.tar"))
        for name, command in commands.items():
            for mode in MODES:
                # The first of each unpacks the layers below
                build(tool, context, "true", mode)
            for _ in range(asked.rounds):
                for mode in MODES:
                    costs[name, mode].append(build(tool, context, command, mode))
    finally:
        tool.close()
        remove_tree(base)
    for name in commands:
        print(f"{name} tar, {asked.files} files", *(f"{mode:>8}" for mode in MODES), "more")
        for field in Cost._fields:
            for kind, choose in (("least", min), ("median", statistics.median)):
                many, one = (choose(getattr(cost, field) for cost in costs[name, mode]) for mode in MODES)
                print(
                    f"  {field + ', ' + kind:24}{many:8.3f} {one:8.3f} {100 * (one - many) / many:+.0f} %", flush=True
                )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
