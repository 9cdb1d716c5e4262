"""`pybuild self`: the program itself."""

from typing import TYPE_CHECKING, Annotated

from pybuild.commands.option import Argument, Option
from pybuild.commands.output import as_json, table, write_line
from pybuild.errors import ExitCode
from pybuild.plugin.option import Commands

if TYPE_CHECKING:
    from pybuild.commands.trying import Tried

app = Commands(
    "Test this program where it stands, and see what it is made of.",
    {
        "check": ("pybuild.commands.self_:check", "Test this program here, with a build from scratch"),
        "licences": ("pybuild.commands.self_:licences", "Show what is bundled, and under which licences"),
        "sbom": ("pybuild.commands.self_:sbom", "Print what is bundled as a document of SPDX"),
    },
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


def licences(
    names: Annotated[list[str] | None, Argument(metavar="[NAME]...", help="What to print the licences of.")] = None,
    all: Annotated[bool, Option("--all", help="Print the licences of all that is bundled.")] = False,
) -> int:
    """Show what is bundled with the single program: Python, libraries and packages, or the texts of their licences.

    A pybuild that pip has installed bundles nothing: its packages have their licences with them.
    """
    from pybuild.commands.bundled import components, texts

    found = components()
    if not names and not all:
        rows = [[it.name, it.version, "see its text" if it.licence == "NOASSERTION" else it.licence] for it in found]
        write_line("\n".join(table(["NAME", "VERSION", "LICENCE"], rows)))
        return ExitCode.OK
    for title, text in texts(names or [it.name for it in found]):
        write_line(f"== {title}\n\n{text.rstrip()}\n")
    return ExitCode.OK


def sbom() -> int:
    """Print what is bundled with the single program, in the format SPDX 2.3 as JSON."""
    from pybuild.commands.bundled import document

    write_line(document().rstrip())
    return ExitCode.OK


def _lines(tried: "list[Tried]") -> list[str]:
    from pybuild.progress.escape import one_line

    rows = [[it.name, "ok" if it.works else "failed", f"{it.seconds:.1f} s", one_line(it.detail)] for it in tried]
    return table(["WHAT", "STATE", "TIME", "DETAIL"], rows)
