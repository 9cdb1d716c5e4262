"""The program from the outside, on the fake engine: results, messages, exit statuses."""

import json
import os
import pty
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pybuild.commands.table import BUILT_IN
from support.fake_engine import ID
from support.fake_world import TESTS, World

MAIN = """
import sys
from pybuild.client import start
start.daemon_command = lambda: [sys.executable, "-P", "-m", "support.fake_engine"]
from pybuild.commands.app import run
sys.exit(run())
"""


@dataclass
class Ended:
    status: int
    out: str
    err: str


class Program:
    def __init__(self, world: World) -> None:
        self.world = world
        self.context = world.base / "context"
        self.context.mkdir()

    def start(self, *args: str, **options: Any) -> "subprocess.Popen[bytes]":
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen([sys.executable, "-c", MAIN, *args], **options)

    def __call__(self, *args: str, stdin: bytes | None = None, status: int | None = 0, **options: Any) -> Ended:
        process = self.start(*args, stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE, **options)
        out, err = process.communicate(stdin, timeout=60)
        ended = Ended(process.returncode, out.decode(), err.decode())
        assert "Traceback" not in ended.err
        assert status is None or ended.status == status, ended
        return ended

    def build(self, text: str, *args: str, **options: Any) -> Ended:
        (self.context / "Dockerfile").write_text(text)
        return self("build", *args, str(self.context), **options)


@pytest.fixture
def program(world: World) -> Program:
    return Program(world)


def test_a_build_shows_progress_and_prints_nothing(program: Program) -> None:
    ended = program.build("x", "-t", "a:1")
    assert ended.out == ""
    assert "#2 [2/2] RUN work" in ended.err
    assert f"built {ID}" in ended.err


def test_a_quiet_build_prints_the_id_alone(program: Program) -> None:
    ended = program.build("x", "-q")
    assert (ended.out, ended.err) == (ID + "\n", "")


def test_json_progress_is_one_event_a_line(program: Program) -> None:
    events = [json.loads(line) for line in program.build("warn", "--progress=json").err.splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["Planned", "Built"]


def test_results_are_written_to_files(program: Program) -> None:
    iid, metadata = program.world.base / "iid", program.world.base / "meta"
    program.build("x", "-t", "a:1", "-t", "b:2", "--iidfile", str(iid), "--metadata-file", str(metadata))
    assert iid.read_text() == ID
    assert json.loads(metadata.read_text()) == {
        "containerimage.config.digest": ID,
        "containerimage.digest": "sha256:" + "cd" * 32,
        "image.name": "a:1,b:2",
    }
    program.build("fail", "--iidfile", str(iid), status=1)
    assert not iid.exists()


def test_a_failed_run_is_told_once_with_place_output_and_status(program: Program) -> None:
    ended = program.build("fail", status=1)
    assert ended.err.count("the command did not end well") == 1
    assert "Dockerfile:2: the command did not end well: exit code 7\n  RUN false\nhint: look at it\n" in ended.err
    assert "  | first\n  | last\n" in ended.err


def test_a_bug_in_a_build_is_status_3_and_names_a_log(program: Program) -> None:
    ended = program.build("bug", status=3)
    path = ended.err.strip().rpartition(" ")[2]
    assert "Traceback" in Path(path).read_text()


def test_an_image_goes_to_standard_output(program: Program) -> None:
    ended = program.build("x", "-t", "a:1", "-o", "type=oci,dest=-")
    assert ended.out == "oci []"


def test_an_image_does_not_go_to_a_terminal(program: Program) -> None:
    master, slave = pty.openpty()
    for args in (("build", "-o", "-", str(program.context)), ("save", "app")):
        process = program.start(*args, stdout=slave)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 2
        assert b"will not be written to a terminal" in err
    os.close(slave)
    os.close(master)


def test_context_and_dockerfile_come_from_standard_input(program: Program) -> None:
    assert "context of 1000 bytes" in program("build", "-", stdin=b"x" * 1000).err
    assert "old syntax" in program("build", "-f", "-", str(program.context), stdin=b"warn").err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["build"], "missing argument 'CONTEXT'"),
        (["build", "/no/such"], "no such directory: /no/such"),
        (["build", "-f", "/no/such", "."], "no such Dockerfile: /no/such"),
        (["build", "--pul", "."], "no such option: --pul"),
        (["build", "--pull=often", "."], "unknown value for --pull: often"),
        (["build", "--insecure-registry", "A/b", "."], "not a registry: A/b"),
        (["pull"], "missing argument 'NAME...'"),
        (["build", "--tg", "x", "."], "or `--tag` or"),
        (["build", "-t", "A B", "."], "invalid name for --tag"),
        (["build", "--shm-size", "x", "."], "invalid size"),
        (["build", "--ulimit", "x", "."], "unknown limit"),
        (["build", "--add-host", "x", "."], "--add-host is NAME:IP"),
        (["build", "--network", "strange", "."], "unknown network"),
        (["build", "--progress", "x", "."], "unknown kind of progress"),
        (["build", "-o", "type=x", "."], "unknown type for --output"),
        (["build", "-o", "-", "-o", "type=oci", "."], "only one --output"),
        (["build", "-f", "-", "-"], "cannot both come from standard input"),
        (["build", "--iidfile", "/no/such/file", "."], "no such directory for the file"),
        (["build", "--watch", "https://example.org/x.git"], "no directory"),
        (["build", ".", "extra"], "extra"),
        (["bild"], "did you mean `build`?"),
        (["daemon", "strat"], "did you mean `start`, `status`?"),
        (["daemon"], "missing command"),
        (["rmi"], "missing argument"),
        (["images", "--filter", "x"], "a filter is NAME=VALUE"),
        (["images", "--format", "{{.Sise}}"], "no such field: .Sise"),
        (["save", "--format", "x", "app"], "unknown format"),
        (["prune"], "nobody to ask"),
        (["completion", "csh"], "no completion for the shell"),
        (["-x"], "no such option: -x"),
    ],
)
def test_usage_errors_are_one_line_and_a_hint(program: Program, args: list[str], words: str) -> None:
    if "-t" in args:
        pytest.importorskip("pybuild.oci.reference")
    ended = program(*args, status=2, cwd=program.context)
    assert words in ended.err
    lines = ended.err.splitlines()
    assert lines[0].startswith("error: ")
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: "))
    assert ended.out == ""


def test_a_usage_error_starts_nothing(program: Program) -> None:
    program("build", "--shm-size", "x", ".", status=2, cwd=program.context)
    assert not program.world.runtime.exists()


def test_images_has_dockers_table(program: Program) -> None:
    lines = program("images").out.splitlines()
    assert lines[0].split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    assert lines[1].startswith("app          latest    abababababab   ")
    assert lines[1].endswith("7.05MB")
    assert lines[0].index("SIZE") == lines[1].index("7.05MB")


def test_images_in_other_forms(program: Program) -> None:
    assert program("images", "-q").out == "abababababab\n"
    assert program("images", "-q", "--no-trunc").out == ID + "\n"
    assert program("images", "--format", "{{.Repository}}:{{.Tag}}").out == "app:latest\n"
    assert json.loads(program("images", "--format", "json").out)["Size"] == "7.05MB"
    assert program("images", "--format", r"table {{.ID}}\t{{.Size}}").out == (
        "IMAGE ID       SIZE\nabababababab   7.05MB\n"
    )


def test_inspect_prints_json_or_a_template(program: Program) -> None:
    assert json.loads(program("inspect", "app").out)[0]["Id"] == ID
    assert program("inspect", "-f", "{{json .Config.Labels}}", "app").out == '{"a.b":"c"}\n'
    ended = program("inspect", "nope", "app", status=1)
    assert json.loads(ended.out)[0]["Id"] == ID
    assert ended.err == "error: No such image: nope\nhint: see `pybuild images`\n"


def test_history_shortens_what_is_long(program: Program) -> None:
    lines = program("history", "app").out.splitlines()
    assert lines[0].split() == ["IMAGE", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"]
    assert "…" in lines[1]
    assert "x" * 60 in program("history", "--no-trunc", "app").out
    assert program("history", "-q", "app").out == "abababababab\n<missing>\n"


def test_names_come_and_go(program: Program) -> None:
    pytest.importorskip("pybuild.oci.reference")
    program("tag", "app", "other:1")
    assert "other:1" in program("images", "--format", "{{.Repository}}:{{.Tag}}").out.split()
    ended = program("rmi", "nope", "app", status=1)
    assert ended.out == f"Untagged: app\nDeleted: {ID}\n"
    assert "No such image: nope" in ended.err


def test_archives(program: Program) -> None:
    out = program.world.base / "x.tar"
    program("save", "-o", str(out), "--format", "oci", "app")
    assert out.read_bytes().startswith(b"oci none app\n")
    program("save", "-o", str(out), "nope", status=1)
    assert out.read_bytes().startswith(b"oci none app\n")
    assert sorted(path.name for path in program.world.base.iterdir()) == ["context", "r", "x.tar"]
    assert program("load", "-i", str(out)).out.startswith("Loaded image: size-")
    assert program("load", stdin=b"abc").out == f"Loaded image: size-3:latest\nLoaded image ID: {ID}\n"
    assert program("load", "-i", str(program.context)).out == "Loaded image: dir-context:latest\n"
    program("load", "-i", "/no/such", status=1)


def test_import_prints_the_id(program: Program) -> None:
    assert program("import", "-", stdin=b"abc").out == ID + "\n"
    ended = program("import", "-", stdin=b"", status=1)
    assert ended.err == "error: not a tar archive\nhint: give a root file system\n"


def test_prune_tells_what_and_why(program: Program) -> None:
    ended = program("prune", "-a", "-f", "--filter", "until=1h")
    assert "dangling" in ended.out
    assert "True {'until': ['1h']} False" in ended.out
    assert ended.out.endswith("Total reclaimed space: 10B\n")
    assert json.loads(program("prune", "-n", "--format", "json").out)["reclaimed"] == 10


def test_df_and_version(program: Program) -> None:
    assert program("df").out.splitlines()[1].split() == ["Images", "2", "1", "2kB", "500B", "(25%)"]
    assert program("version", "--format", "{{.Server.Version}}").out == "0.1.0\n"


def test_the_daemon_is_started_looked_at_and_stopped(program: Program) -> None:
    before = json.loads(program("daemon", "status", "--json").out)
    assert (before["running"], before["socket"]) == (False, str(program.world.socket))
    assert program("daemon", "start").out == f"{program.world.socket}\n"
    status = json.loads(program("daemon", "status", "--json").out)
    assert (status["running"], status["version"]) == (True, "0.1.0")
    assert "listens on" in program("daemon", "logs").out
    assert program("daemon", "stop").out == "stopped\n"
    assert program("daemon", "stop").out == "not running\n"
    assert program("daemon", "status").out == "not running\n"


def test_ctrl_c_cancels_and_is_status_130(program: Program) -> None:
    (program.context / "Dockerfile").write_text("slow")
    for number in (signal.SIGINT, signal.SIGTERM):
        seen = program.world.store / "seen" / "cancelled"
        seen.unlink(missing_ok=True)
        process = program.start("build", str(program.context))
        assert process.stderr is not None
        while b"waiting" not in process.stderr.readline():
            pass
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130
        assert err.endswith(b"error: interrupted\n")
        program.world.wait(seen)


def test_a_reader_that_goes_away_is_no_error_to_tell(program: Program) -> None:
    process = program.start("save", "app")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=30)
    assert err == b""


def test_tracebacks_are_for_those_who_ask(program: Program) -> None:
    program("daemon", "start")
    for args in (["-v", "inspect", "nope"], ["inspect", "--debug", "nope"]):
        process = program.start(*args)
        _, err = process.communicate(timeout=60)
        assert b"Traceback" in err
        assert process.returncode == 1


def test_a_bug_is_status_3_and_names_a_log_without_secrets(program: Program) -> None:
    code = MAIN.replace(
        "from pybuild.commands.app", "import pybuild.commands.flags as f\nf.size = None\nfrom pybuild.commands.app"
    )
    args = ["build", "--build-arg", "SECRET=x", "--shm-size", "1m", str(program.context)]
    ended = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 3
    assert "Traceback" not in ended.stderr
    path = Path(ended.stderr.strip().rpartition(" ")[2])
    assert path.parent == program.world.store / "logs"
    text = path.read_text()
    assert "Traceback" in text
    assert "SECRET=x" not in text


def test_another_system_is_told_so(program: Program) -> None:
    code = MAIN.replace("sys.exit", "sys.platform = 'darwin'\nsys.exit")
    ended = subprocess.run([sys.executable, "-c", code, "images"], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: pybuild runs on Linux only, this is darwin\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_know_commands_and_options(program: Program, shell: str) -> None:
    script = program("completion", shell).out
    for word in ("build", "daemon", "build-arg", "start"):
        assert word in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script.encode(), check=True)
        check = script + '\nCOMP_WORDS=(pybuild bui); COMP_CWORD=1; _pybuild; echo "${COMPREPLY[*]}"'
        done = subprocess.run(["bash"], input=check.encode(), capture_output=True, check=True)
        assert done.stdout == b"build\n"


ALLOWED_AFTER_HELP = {
    "pybuild",
    "pybuild.errors",
    "pybuild.commands",
    "pybuild.commands.app",
    "pybuild.commands.group",
    "pybuild.commands.interrupts",
    "pybuild.commands.option",
    "pybuild.commands.quick",
    "pybuild.commands.table",
    "pybuild.plugin",
    "pybuild.plugin.found",
    "pybuild.plugin.option",
    "pybuild.plugin.places",
}


@pytest.mark.parametrize("args", [["--help"], ["-h"], []])
def test_help_imports_no_command(program: Program, args: list[str]) -> None:
    code = f"""
import sys
from pybuild.commands.app import run
status = run({args!r})
sys.stderr.write(" ".join(sys.modules))
sys.exit(status)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0
    assert "Make an image of a root file system archive" in ended.stdout
    modules = set(ended.stderr.split())
    assert {name for name in modules if name.split(".")[0] == "pybuild"} == ALLOWED_AFTER_HELP
    for heavy in ("rich", "pydantic", "asyncio", "aiohttp", "msgspec", "tqdm", "sqlite3", "json", "socket", "email"):
        assert heavy not in modules, heavy


def test_typer_is_imported_in_this_room_only() -> None:
    source = TESTS.parent / "cli" / "pybuild"
    for path in source.rglob("*.py"):
        text = path.read_text()
        if path.parent.name != "commands":
            assert "import typer" not in text, path
            assert "from typer" not in text, path
        assert "typer._click" not in text, path
        assert "import click" not in text, path


def test_every_command_has_help(program: Program) -> None:
    names = [line.split()[0] for line in program("--help").out.partition("Commands:\n")[2].splitlines()]
    assert names == [*BUILT_IN]
    for name in names:
        assert f"Usage: pybuild {name}" in program(name, "--help").out
