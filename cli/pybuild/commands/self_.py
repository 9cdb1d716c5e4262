"""`pybuild self`: the program itself."""

from typing import TYPE_CHECKING, Annotated

from pybuild.commands.option import Option
from pybuild.commands.output import as_json, table, write_line
from pybuild.errors import ExitCode
from pybuild.plugin.option import Commands

if TYPE_CHECKING:
    from pybuild.commands.trying import Tried

app = Commands(
    "Test this program where it stands.",
    {"check": ("pybuild.commands.self_:check", "Test this program here, with a build from scratch")},
)


def check(
    json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Test this program where it stands: its libraries, a build from scratch, the cache, the daemon, archives.

    It takes seconds, works in a store of its own beside yours, and leaves nothing behind. Ends with 0 when all works
    and with 1 when something does not. `pybuild doctor` tells more of what this machine lets builds do.
    """
    from pybuild import __version__
    from pybuild.commands.trying import program, try_all

    tried = try_all()
    works = all(item.works for item in tried)
    if json:
        items = [{"name": it.name, "works": it.works, "detail": it.detail, "seconds": it.seconds} for it in tried]
        write_line(as_json({"version": __version__, "program": program(), "works": works, "tried": items}))
    else:
        write_line("\n".join([f"pybuild {__version__}, {program()}", "", *_lines(tried)]))
        write_line("\nall works" if works else "\nsomething does not work here; `pybuild doctor` may tell why")
    return ExitCode.OK if works else ExitCode.FAILED


def _lines(tried: "list[Tried]") -> list[str]:
    from pybuild.progress.escape import one_line

    rows = [[it.name, "ok" if it.works else "failed", f"{it.seconds:.1f} s", one_line(it.detail)] for it in tried]
    return table(["WHAT", "STATE", "TIME", "DETAIL"], rows)
