"""The report for people at a terminal."""

from collections.abc import Iterator, Sequence

from pybuild.plugin import bar, human_bytes, ignore_pattern, one_line
from pybuild_context.measure import Node, Report, Sum

BAR = 20  # columns
_DEEP = 0.5
"""A directory is opened when one thing in it is more than this part of the whole."""


def lines(report: Report, top: int) -> Iterator[str]:
    """Yield the lines: totals first, then what to look at, `top` of each kind."""
    yield f"{one_line(report.root)}: {_amount(report.total)}"
    if report.ignore_file:
        yield f"  left out by the ignore file   {_amount(report.ignored)}"
    if report.used is not None:
        rest = Sum("", report.total.bytes - report.used.bytes, report.total.files - report.used.files)
        yield f"  used by COPY, ADD and mounts  {_amount(report.used)}"
        yield f"  never used                    {_amount(rest)}"
    else:
        yield f"  what is used is not known: {one_line(report.why)}"
    if report.changed is not None:
        yield f"  changed since the last build  {_count(len(report.changed), 'file')}"
    yield from _tree(report, top)
    yield from _sums("By extension", [one._replace(name=one.name or "(none)") for one in report.extensions], top)
    if report.lines:
        yield ""
        yield "Left out by line"
        for line in report.lines:
            saved = (
                f"{human_bytes(line.bytes, 3):>8}  {_count(line.files, 'file'):>14}"
                if line.files
                else f"{'nothing':>24}"
            )
            yield f"  {saved}  {line.line:>4}: {one_line(line.pattern)}"
    yield from _changed(report, top)
    yield from _duplicates(report, top)
    yield from _unused(report, top)
    for path in report.unreadable[:top]:
        yield f"cannot be read: {one_line(path)}"


def _tree(report: Report, top: int) -> Iterator[str]:
    whole = report.tree.bytes
    if not whole or not top:
        return
    yield ""
    yield "Largest"
    yield from _branches(report.tree, whole, top, "  ")


def _branches(node: Node, whole: int, top: int, indent: str) -> Iterator[str]:
    shown = [child for child in node.children[:top] if child.bytes]
    for child in shown:
        name = one_line(child.name) + ("/" if child.children else "")
        share = child.bytes / whole
        yield f"  {bar(share, BAR)} {share:>4.0%} {human_bytes(child.bytes, 3):>8}{indent}{name}"
        if child.children and (share > _DEEP or child.children[0].bytes > whole * 0.1):
            yield from _branches(child, whole, max(3, top // 2), indent + "  ")
    rest = [child for child in node.children if child.bytes][len(shown) :]
    if rest:
        size = sum(child.bytes for child in rest)
        yield f"  {bar(size / whole, BAR)} {size / whole:>4.0%} {human_bytes(size, 3):>8}{indent}({len(rest)} more)"


def _sums(title: str, sums: Sequence[Sum], top: int) -> Iterator[str]:
    shown = [one for one in sums if one.bytes][:top]
    if not shown:
        return
    yield ""
    yield title
    for one in shown:
        yield f"  {human_bytes(one.bytes, 3):>8}  {_count(one.files, 'file'):>14}  {one_line(one.name)}"


def _changed(report: Report, top: int) -> Iterator[str]:
    if not report.changed or not top:
        return
    yield ""
    yield "Changed since the last build"
    for path in report.changed[:top]:
        yield f"  {one_line(path)}"
    if len(report.changed) > top:
        yield f"  and {len(report.changed) - top:,} more"


def _duplicates(report: Report, top: int) -> Iterator[str]:
    if not report.duplicates or not top:
        return
    spare = sum(one.bytes * (len(one.paths) - 1) for one in report.duplicates)
    yield ""
    yield f"Same content: {human_bytes(spare, 3)} more than once"
    for one in sorted(report.duplicates, key=lambda one: -one.bytes * (len(one.paths) - 1))[:top]:
        named = ", ".join(one_line(path) for path in one.paths[:3])
        more = f" and {len(one.paths) - 3} more" if len(one.paths) > 3 else ""
        yield f"  {human_bytes(one.bytes, 3):>8}  {named}{more}"


def _unused(report: Report, top: int) -> Iterator[str]:
    if not report.unused:
        return
    yield from _sums("Never used by the Dockerfile", report.unused, top)
    yield ""
    yield "Lines for the ignore file (--fix adds them):"
    for one in report.unused[:top]:
        yield f"  {one_line(ignore_pattern(one.name))}"
    if len(report.unused) > top:
        yield f"  and {len(report.unused) - top} more"
    if report.unknown_bases:
        yield f"not known is what triggers read of: {', '.join(map(one_line, report.unknown_bases))}"


def _amount(one: Sum) -> str:
    return f"{human_bytes(one.bytes, 3)} in {_count(one.files, 'file')}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
