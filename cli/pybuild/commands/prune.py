"""`pybuild prune`"""

import sys
from time import time
from typing import Annotated, Any

from pybuild.client import connect
from pybuild.commands.flags import size
from pybuild.commands.option import Option
from pybuild.commands.output import as_json, parse_filters, table, write_line
from pybuild.errors import ExitCode, UsageError
from pybuild.progress.amounts import human_bytes, human_duration


def prune(
    all_: Annotated[
        bool, Option("-a", "--all", help="Everything no image with a name needs, the whole cache too.")
    ] = False,
    force: Annotated[bool, Option("-f", "--force", help="Do not ask.")] = False,
    dry_run: Annotated[bool, Option("-n", "--dry-run", help="Only tell what would be removed.")] = False,
    filter_: Annotated[
        list[str] | None,
        Option(
            "--filter",
            help="until=24h, label=NAME, id=ID of a cache mount alone, or type=cache|snapshot|exec.cachemount|...",
            metavar="NAME=V",
        ),
    ] = None,
    max_size: Annotated[
        str, Option(help="Only what was used least recently, until the store takes no more than this.", metavar="SIZE")
    ] = "",
    min_free: Annotated[str, Option(help="The same, until this is free on its disk.", metavar="SIZE")] = "",
    format_: Annotated[str, Option("--format", help="table or json.", metavar="FORMAT")] = "table",
    json: Annotated[bool, Option("--json", help="As --format json.")] = False,
) -> int:
    """Remove what nothing needs: images without a name, old cache, leftovers. Tells each with its reason."""
    if format_ not in ("table", "json"):
        raise UsageError(f"unknown format: {format_}", "known: table, json")
    filters = parse_filters(filter_ or ())
    for name, value in (("max-size", max_size), ("min-free", min_free)):
        if value:
            filters[name] = [str(size(value, f"--{name}"))]
    if not force and not dry_run and not _agreed(all_):
        return ExitCode.FAILED
    with connect() as backend:
        report = backend.prune(all=all_, filters=filters, dry_run=dry_run)
    if json or format_ == "json":
        write_line(as_json(report))
        return ExitCode.OK
    items = report["items"]
    if items:
        write_line("\n".join(table(("KIND", "NAME", "SIZE", "LAST USED", "REASON"), [_row(item) for item in items])))
        write_line("")
    told = "Total that would be reclaimed" if dry_run else "Total reclaimed space"
    write_line(f"{told}: {human_bytes(report['reclaimed'])}")
    return ExitCode.OK


def _agreed(all_: bool) -> bool:
    what = "everything that no image with a name needs" if all_ else "images without a name and unused cache"
    if not sys.stdin.isatty():
        raise UsageError(
            "there is nobody to ask on standard input", "use `--force`, or `--dry-run` to see what would go"
        )
    sys.stderr.write(f"This will remove {what}. Go on? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _row(item: dict[str, Any]) -> list[str]:
    used = float(item.get("last_used") or 0)
    ago = f"{human_duration(max(0.0, time() - used))} ago" if used else ""
    name = str(item["name"])
    name = name[:19] if name.startswith("sha256:") else name
    return [str(item["kind"]), name, human_bytes(item["size"], 3), ago, str(item["reason"])]
