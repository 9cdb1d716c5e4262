"""Entry point of the program. What must be fast or small is answered before anything else is imported."""

import sys


def main() -> None:
    """Run the command line, or one of the hidden roles of a child process, and exit."""
    words = sys.argv[1:]
    if words in (["--version"], ["-V"]):
        from pybuild import __version__

        sys.stdout.write(f"pybuild {__version__}\n")
        sys.exit(0)
    if words[:1] == ["_child"]:
        sys.exit(_child(words[1:]))
    from pybuild.commands.app import run

    sys.exit(run())


def _child(words: list[str]) -> int:
    role = words[0] if words else ""
    if role == "worker" and len(words) == 3:
        import socket

        from pybuild.engine.jobs import JOBS
        from pybuild.sandbox.child import serve

        with socket.socket(fileno=int(words[1])) as control:
            serve(control, words[2], JOBS)
        return 0
    if role == "daemon":
        from pybuild.daemon.serve import main as serve_daemon

        return serve_daemon(words[1:])
    sys.stderr.write("error: `_child` is for pybuild itself\n")
    return 2


if __name__ == "__main__":
    main()
