"""The entry point of every process of pybuild: the command line, and what it starts of itself.

The hidden word `_child` takes the place that `python -m` would have: a frozen program has no such switch.
Nothing heavy is imported before it is known what is asked for.
"""

import sys


def main() -> int:
    """Run what the arguments ask for and return the exit status."""
    words = sys.argv[1:]
    if words in (["--version"], ["-V"]):
        from pybuild import __version__

        sys.stdout.write(f"pybuild {__version__}\n")
        return 0
    if words[:1] == ["_child"]:
        return _child(words[1:])
    from pybuild.commands.app import run

    return run()


def _child(words: list[str]) -> int:
    match words:
        case [
            "worker",
            control,
            "multi" | "root" | "single" as mode,
            "namespaces" | "ids" | "bare" as footing,
        ]:
            from pybuild.sandbox.enter import enter

            # First the namespaces: the parent maps their ids while the rest is imported
            if not enter(int(control), footing):
                return 1
            from pybuild.engine.light import import_msgspec

            import_msgspec()
            from pybuild.engine.jobs import JOBS
            from pybuild.sandbox.child import serve

            return serve(int(control), mode, JOBS, footing)
        case ["daemon", *rest]:
            from pybuild.daemon.serve import main as serve_daemon

            return serve_daemon(rest)
        case ["plugin", "lint" | "export" | "events" as role, name]:
            from pybuild.plugin.processes import serve as serve_plugin

            return serve_plugin(role, name)
    sys.stderr.write("error: `_child` is for pybuild itself\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
