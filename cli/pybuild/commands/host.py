"""`pybuild host`: the daemons of other machines that have names."""

from typing import Annotated

from pybuild.commands.option import Option
from pybuild.commands.output import as_json, table, write_line
from pybuild.errors import PybuildError
from pybuild.plugin.option import Commands

app = Commands(
    "See the daemons of other machines that have names in the configuration.",
    {"list": ("pybuild.commands.host:list_", "List them: name, address, whether it is the one that is asked")},
)


def list_(
    check: Annotated[bool, Option("--check", help="Ask each of them how it is.")] = False,
    json: Annotated[bool, Option("--json", help="Print JSON, one object a line.")] = False,
) -> None:
    """List the hosts of the configuration, `[hosts.NAME]`; a star marks the one that PYBUILD_HOST or --host names."""
    from pybuild.client.hosts import Host, chosen, configured

    def state(host: Host) -> str:
        from pybuild.client.distant import Distant

        try:
            with Distant(host) as distant:
                status = distant.status()
                return f"pybuild {status['version']}, {status['builds']} builds"
        except PybuildError as error:
            return error.message

    current = chosen()
    rows = []
    for name, host in sorted(configured().items()):
        rows.append({"name": name, "url": host.url, "tls": bool(host.ca), "current": current == host})
        if check:
            rows[-1]["state"] = state(host)
    if json:
        for row in rows:
            write_line(as_json(row))
        return
    heads = ["", "NAME", "URL", *(["STATE"] if check else [])]
    cells = [
        ["*" if row["current"] else "", *(str(row[key]) for key in ("name", "url", "state") if key in row)]
        for row in rows
    ]
    write_line("\n".join(table(heads, cells)))
