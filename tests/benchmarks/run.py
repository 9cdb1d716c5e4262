"""Compare pybuild with other builders: `python tests/benchmarks/run.py [--rounds N] [--only WORDS] [--json FILE]`.

Every round does each piece of work once with each tool, the tools taking turns at going first; what is
printed are medians of wall seconds and the part of the other's time that ours took. Needs a static busybox.
Run it as an ordinary user on a machine that does nothing else.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.tools import Pybuild, Timing, Tool, available
from benchmarks.works import CHANGED, WORKS, Work
from support import busybox
from support.program import remove_tree

Results = dict[tuple[str, str], dict[str, list[Timing]]]


def _do(work: Work, tool: Tool, context: Path, dockerfile: Path, results: Results) -> None:
    nonce = f"{time.time_ns()}"
    if work.alone:
        tool.rest()
    for phase in work.phases:
        if phase == CHANGED:
            next(path for path in sorted(context.rglob("*")) if path.is_file()).write_text(nonce)
        try:
            results[work.name, phase][tool.name].append(tool.build(context, dockerfile, nonce))
        except RuntimeError as error:
            print(f"{tool.name}: {error}", file=sys.stderr)
            return


def measure_all(tools: list[Tool], works: list[Work], base: Path, *, rounds: int, scale: float) -> Results:
    """Do all works with all tools in alternation."""
    results: Results = defaultdict(lambda: defaultdict(list))
    for work in works:
        print(f"… {work.name}", file=sys.stderr, flush=True)
        context, dockerfile = base / "context", base / "Dockerfile"
        context.mkdir()
        work.fill(context, scale)
        dockerfile.write_text(work.dockerfile)
        for number in range(rounds):
            turn = number % len(tools)
            for tool in tools[turn:] + tools[:turn]:
                _do(work, tool, context, dockerfile, results)
        remove_tree(context)
    return results


def measure_starts(tools: list[Tool], results: Results, *, rounds: int) -> None:
    """Measure what every command costs before it does anything."""
    for option in ("--version", "--help"):
        for _ in range(rounds):
            for tool in tools:
                results[option, ""][tool.name].append(tool.start(option))


def table(tools: list[Tool], results: Results, wanted: dict[str, float]) -> str:
    """Return medians and ratios, one piece of work a line."""
    names = [tool.name for tool in tools]
    ours, others = names[0], names[1:]
    head = ["work", *(f"{name} s" for name in names), *(f"{ours} / {name}" for name in others), "wanted", "peak MB"]
    rows = [head]
    for (work, phase), by_tool in results.items():
        seconds = {name: statistics.median(t.seconds for t in by_tool[name]) for name in names if by_tool.get(name)}
        row = [f"{work}, {phase}" if phase else work]
        row += [f"{seconds[name]:.3f}" if name in seconds else "–" for name in names]
        row += [f"{seconds[ours] / seconds[n]:.2f}" if n in seconds and ours in seconds else "–" for n in others]
        row.append(f"{wanted[work]:.2f}" if work in wanted else "")
        row.append(
            " / ".join(f"{max(t.peak for t in by_tool[name]):.0f}" if by_tool.get(name) else "–" for name in names)
        )
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="size of contexts, 1.0 the real one")
    parser.add_argument("--only", default="", help="names of works, as regular words in them, separated by commas")
    parser.add_argument("--tools", default="", help="pybuild,pybuild-inline,buildah,docker; default: those there are")
    parser.add_argument("--program", default="", help="a pybuild binary to measure instead of this checkout")
    parser.add_argument("--json", default="", help="file for every single figure")
    asked = parser.parse_args()
    words = [word for word in asked.only.split(",") if word]
    works = [work for work in WORKS if not words or any(word in work.name for word in words)]
    base = Path(tempfile.mkdtemp(prefix="pbm-"))
    tools = available(base, [name for name in asked.tools.split(",") if name], asked.program)
    try:
        rootfs = busybox.write_rootfs(base / "base.tar")
        for tool in tools:
            tool.add_base(rootfs)
        results = measure_all(tools, works, base, rounds=asked.rounds, scale=asked.scale)
        if not words:
            measure_starts(tools, results, rounds=asked.rounds * 3)
        print(table(tools, results, {work.name: work.wanted for work in works}), flush=True)
        for tool in tools:
            if isinstance(tool, Pybuild) and (memory := tool.memory()):
                print(f"daemon of {tool.name}: peak {memory['peak']:.0f} MB, now {memory['now']:.0f} MB")
        if asked.json:
            figures = [
                {"work": work, "phase": phase, "tool": tool, "seconds": [timing.seconds for timing in timings]}
                for (work, phase), by_tool in results.items()
                for tool, timings in by_tool.items()
            ]
            Path(asked.json).write_text(json.dumps(figures, indent=1))
    finally:
        for tool in tools:
            tool.close()
        remove_tree(base)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
