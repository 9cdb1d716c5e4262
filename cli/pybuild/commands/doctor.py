"""`pybuild doctor`"""

from typing import TYPE_CHECKING, Annotated

from pybuild.commands.option import Option
from pybuild.commands.output import as_json, table, write_line
from pybuild.errors import ExitCode

if TYPE_CHECKING:
    from pybuild.sandbox.probe.report import Report

_MODES = {
    "multi": "multi: files of all users, by subordinate ids",
    "root": "root: files of all users, as root",
    "single": "single: one user id, other owners are noted beside the files",
    "none": "none: RUN does not work here",
}

_ISOLATIONS = {
    "namespaces": "in namespaces of its own",
    "chroot": "kept apart by chroot, less isolated",
    "none": "",
}
_SNAPSHOTTERS = {"overlay": "on stacked layers (overlay)", "copy": "on copies of layers", "none": ""}


def doctor(
    json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False,
    strict: Annotated[bool, Option("--strict", help="End with 1 unless all is as good as it gets.")] = False,
) -> int:
    """Try out what builds need here, and tell how to get what is missing.

    Each ability is tried in a process of its own; nothing is left behind. Ends with 0 when builds with RUN work, in
    whatever mode, and with 1 when they do not.
    """
    from pybuild.engine.paths import store_root
    from pybuild.sandbox.probe.everything import probe

    report = probe(str(store_root()))
    if json:
        import msgspec

        write_line(as_json({**msgspec.to_builtins(report), "fixes": report.fixes}))
    else:
        write_line("\n".join(_lines(report)))
    bad = report.level != "best" if strict else report.level == "none"
    return ExitCode.FAILED if bad else ExitCode.OK


def _lines(report: "Report") -> list[str]:
    from pybuild.progress.escape import one_line

    best = {"best": "the best there is", "lesser": "it could be better", "none": "see below"}[report.level]
    rows = [
        [
            item.name,
            item.state,
            item.need,
            f"{item.problem} [{item.error}]" if item.error else item.problem or item.detail,
        ]
        for item in report.abilities
    ]
    lines = [f"Mode    {_MODES[report.mode]} ({best})"]
    if report.mode != "none":
        lines.append(f"RUN     {_ISOLATIONS[report.isolation]}, {_SNAPSHOTTERS[report.snapshotter]}")
    lines += [f"Store   {one_line(report.store)}", ""]
    lines += table(["ABILITY", "STATE", "NEED", "DETAIL"], rows)
    if report.fixes:
        lines += ["", "What would help:"]
        lines += [f"  {', '.join(names)}: {one_line(fix)}" for fix, names in report.fixes.items()]
    if report.profile:
        lines += ["", "The AppArmor profile, for /etc/apparmor.d/pybuild, to be loaded with `apparmor_parser -r`:"]
        lines += [f"  {line}" for line in report.profile.splitlines()]
    return lines
