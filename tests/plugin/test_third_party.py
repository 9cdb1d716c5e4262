"""Plugins of third parties: found, listed without being run, run, and named when something is wrong with them."""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import plugins, program
from support.processes import adopt_orphans

HELLO = """
    from typing import Annotated
    from pybuild.plugin import Argument, Option, write_line

    def hello(
        name: Annotated[str, Argument(help="Whom.", metavar="NAME")] = "world",
        loud: Annotated[bool, Option("--loud", help="Louder.")] = False,
    ) -> int:
        \"\"\"Greet.\"\"\"
        write_line(f"hello {name}{'!' * loud}")
        return 5 if name == "five" else 0
"""
ENTRY = """
    [pybuild.commands]
    hello = third_hello:hello
"""


@pytest.fixture
def pybuild() -> Iterator[program.Pybuild]:
    adopt_orphans()
    with program.world("inline") as pybuild:
        pybuild.env["PYBUILD_PLUGIN_PATH"] = str(pybuild.base / "plugins")
        (pybuild.base / "plugins").mkdir(mode=0o755)
        yield pybuild


@pytest.fixture
def place(pybuild: program.Pybuild) -> Path:
    return pybuild.base / "plugins"


def test_a_function_is_a_command(pybuild: program.Pybuild, place: Path) -> None:
    plugins.add(place / "hello", ENTRY, {"third_hello.py": HELLO}, summary="Greets people")
    assert "hello Greets people" in " ".join(pybuild("--help").text.split())
    assert pybuild("hello").text == "hello world\n"
    assert pybuild("hello", "you", "--loud").text == "hello you!\n"
    assert pybuild("hello", "five", status=5).text == "hello five\n"
    assert "--loud" in pybuild("hello", "--help").text
    assert "no such option: --lod" in pybuild("hello", "--lod", status=2).err
    assert "did you mean `hello`?" in pybuild("helo", status=2).err


def test_nothing_is_imported_to_be_listed(pybuild: program.Pybuild, place: Path) -> None:
    plugins.add(place / "hello", ENTRY, {"third_hello.py": "raise SystemExit('imported')"})
    for words in (["--help"], ["plugin", "list"], ["plugin", "show", "hello"], ["completion", "bash"]):
        assert "hello" in pybuild(*words).text


def test_help_reads_what_is_remembered_and_nothing_else(pybuild: program.Pybuild, place: Path) -> None:
    plugins.add(place / "hello", ENTRY, {"third_hello.py": HELLO}, summary="First")
    assert "First" in pybuild("--help").text
    index = pybuild.home / ".cache" / "pybuild" / "plugins.index"
    index.write_text(index.read_text().replace("First", "From memory"))
    assert "From memory" in pybuild("--help").text
    # Another one beside it, and all is looked at again
    plugins.add(place / "other", ENTRY.replace("hello =", "other ="), {}, name="other")
    text = pybuild("--help").text
    assert "First" in text
    assert "other" in text
    (place / "hello" / "third_party-1.2.dist-info").rename(place / "hello" / "gone")
    assert "First" not in pybuild("--help").text


def test_a_memory_that_is_damaged_is_made_again(pybuild: program.Pybuild, place: Path) -> None:
    plugins.add(place / "hello", ENTRY, {"third_hello.py": HELLO}, summary="First")
    pybuild("--help")
    index = pybuild.home / ".cache" / "pybuild" / "plugins.index"
    whole = index.read_text()
    for damaged in (whole[: len(whole) // 2], "", whole.replace("plugin\t", "plugin\tmore\t")):
        index.write_text(damaged)
        assert "First" in pybuild("--help").text
        assert index.read_text() == whole


def test_typer_applications_and_groups(pybuild: program.Pybuild, place: Path) -> None:
    files = {
        "third_typer.py": """
            import typer
            from typing import Annotated
            app = typer.Typer()

            @app.command()
            def one(count: Annotated[int, typer.Option(help="How many.")] = 1) -> None:
                print("one", count)

            @app.command()
            def two() -> None:
                print("two")

            def plain(count: Annotated[int, typer.Option("--count")] = 1) -> None:
                print("plain", count)
        """,
        "third_group.py": """
            from pybuild.plugin import Commands
            group = Commands("Several.", {"good": ("third_good:good", "Good"), "bad": ("third_bad:bad", "Bad")})
        """,
        "third_good.py": "def good() -> None:\n    print('good')\n",
        "third_bad.py": "import no_such_module\n",
    }
    entry = """
        [pybuild.commands]
        typed = third_typer:app
        plain = third_typer:plain
        group = third_group:group
    """
    plugins.add(place / "several", entry, files)
    assert pybuild("typed", "one", "--count", "4").text == "one 4\n"
    assert pybuild("typed", "two").text == "two\n"
    assert pybuild("plain", "--count=2").text == "plain 2\n"
    assert pybuild("group", "good").text == "good\n"
    assert "Bad" in pybuild("group", "--help").text
    assert "no such command: group god\nhint: did you mean `good`?" in pybuild("group", "god", status=2).err
    told = pybuild("group", "bad", status=70).err
    assert told.startswith("error: plugin group (third-party 1.2) has failed: ModuleNotFoundError: ")


def test_its_own_dependency_is_found_beside_it(pybuild: program.Pybuild, place: Path) -> None:
    code = "from third_dependency import VALUE\n\ndef hello() -> None:\n    print(VALUE)\n"
    plugins.add(place / "hello", ENTRY, {"third_hello.py": code, "third_dependency/__init__.py": "VALUE = 'mine'"})
    assert pybuild("hello").text == "mine\n"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("1 / 0", "cannot be loaded: ZeroDivisionError: division by zero"),
        ("raise SystemExit(0)", "cannot be loaded: SystemExit: 0"),
        ("hallo = 1", "cannot be loaded: AttributeError: module 'third_hello' has no attribute 'hello'"),
        ("def hello() -> None:\n    raise ValueError('so\\nit is')", "has failed: ValueError: so it is"),
        ("from pybuild.plugin import nothing", "cannot be loaded: ImportError: cannot import name 'nothing'"),
    ],
)
def test_a_broken_one_is_one_line_and_breaks_nothing_else(
    pybuild: program.Pybuild, place: Path, code: str, told: str
) -> None:
    plugins.add(place / "hello", ENTRY, {"third_hello.py": code})
    ended = pybuild("hello", status=70)
    error, hint = ended.err.splitlines()
    assert error.startswith(f"error: plugin hello (third-party 1.2) {told}")
    assert hint == "hint: PYBUILD_DEBUG=1 shows where; without it: `pybuild plugin disable hello`"


def test_one_can_be_switched_off(pybuild: program.Pybuild, place: Path) -> None:
    plugins.add(place / "hello", ENTRY, {"third_hello.py": "1 / 0"})
    pybuild("plugin", "disable", "hello")
    assert "cannot be used: disabled" in pybuild("hello", status=70).err
    assert "cannot be used: disabled" in pybuild("--help").text
    pybuild("plugin", "enable", "hello")
    assert "cannot be loaded: ZeroDivisionError" in pybuild("hello", status=70).err


@pytest.mark.parametrize("command", ["enable", "disable", "show"])
def test_a_name_that_is_no_plugins_is_told(pybuild: program.Pybuild, place: Path, command: str) -> None:
    nobody = pybuild("plugin", command, "helo", status=1)
    assert nobody.err == "error: no such plugin: helo\nhint: none is installed: `pybuild plugin install`\n"
    plugins.add(place / "hello", ENTRY, {"third_hello.py": "def hello() -> None:\n    print('here')\n"})
    assert pybuild("plugin", command, "helo", status=1).err == "error: no such plugin: helo\nhint: known: hello\n"
    assert "it is built in" in pybuild("plugin", command, "build", status=1).err
    assert pybuild("hello").text == "here\n"


def test_one_that_is_gone_can_be_switched_on_again(pybuild: program.Pybuild, place: Path) -> None:
    plugins.add(place / "hello", ENTRY, {"third_hello.py": "def hello() -> None:\n    print('here')\n"})
    pybuild("plugin", "disable", "hello")
    shutil.rmtree(place / "hello")
    pybuild("plugin", "enable", "hello")
    assert "no such plugin" in pybuild("plugin", "enable", "hello", status=1).err


def test_errors_of_its_own_have_our_form(pybuild: program.Pybuild, place: Path) -> None:
    code = """
        from pybuild.plugin import UsageError
        def hello() -> None:
            raise UsageError("not so", "but so")
    """
    plugins.add(place / "hello", ENTRY, {"third_hello.py": code})
    assert pybuild("hello", status=2).err == "error: not so\nhint: but so\n"


def test_one_for_another_version_is_named_without_being_imported(pybuild: program.Pybuild, place: Path) -> None:
    broken = {"third_hello.py": "raise SystemExit('imported')"}
    plugins.add(place / "hello", ENTRY, broken, requires=("other", "pybuild (>=99,<100)"))
    assert "cannot be used: needs pybuild <100,>=99, this is 0." in " ".join(pybuild("--help").text.split())
    assert "needs pybuild <100,>=99" in pybuild("hello", status=70).err
    assert "needs pybuild" in pybuild("plugin", "list", status=1).text


def test_no_plugin_takes_a_built_in_name(pybuild: program.Pybuild, place: Path) -> None:
    entry = ENTRY.replace("hello =", "images =")
    plugins.add(place / "hello", entry, {"third_hello.py": "raise SystemExit('imported')"})
    pybuild("images")
    [listed] = [json.loads(line) for line in pybuild("plugin", "list", "--json", status=1).text.splitlines()]
    assert listed["problem"] == "its name is that of a built-in command"


def test_the_first_of_a_name_wins(pybuild: program.Pybuild, place: Path) -> None:
    plugins.add(place / "a", ENTRY, {"third_hello.py": HELLO})
    plugins.add(pybuild.home / ".local/share/pybuild/plugins/b", ENTRY, {"third_hello.py": "1/0"}, name="late")
    assert pybuild("hello").text == "hello world\n"
    problems = [json.loads(line)["problem"] for line in pybuild("plugin", "list", "--json", status=1).text.splitlines()]
    assert problems == ["", "its name is taken by third-party 1.2"]


def test_what_others_can_write_to_is_not_used(pybuild: program.Pybuild, place: Path) -> None:
    plugins.add(place / "hello", ENTRY, {"third_hello.py": HELLO})
    (place / "hello").chmod(0o777)
    assert f"others may write to it: {place / 'hello'}" in pybuild("hello", status=70).err
    (place / "hello").chmod(0o755)
    # Rights are no change of what is in it, so that it is what lies around it that is looked at again
    plugins.add(place / "new", ENTRY.replace("hello =", "new ="), {}, name="new")
    pybuild("hello")


def test_the_working_directory_holds_no_plugin(pybuild: program.Pybuild, tmp_path: Path) -> None:
    plugins.add(tmp_path, ENTRY, {"third_hello.py": HELLO})
    plugins.add_executable(tmp_path / "pybuild-there", "#!/bin/sh\necho {}")
    env = {"PYBUILD_PLUGIN_PATH": f".:{os.pathsep}", "PATH": f".:{pybuild.env['PATH']}", "PYBUILD_PLUGINS_ON_PATH": "1"}
    for name in ("hello", "there"):
        assert f"no such command: {name}" in pybuild(name, status=2, cwd=tmp_path, env=env).err


def test_an_installed_one_is_found_beside_pybuild(pybuild: program.Pybuild, tmp_path: Path) -> None:
    site = plugins.add(tmp_path / "site-packages", ENTRY, {"third_hello.py": HELLO})
    env = {"PYTHONPATH": f"{pybuild.env['PYTHONPATH']}{os.pathsep}{site}"}
    assert pybuild("hello", env=env).text == "hello world\n"


SHELL = """\
#!/bin/sh
if [ "$1" = --pybuild-plugin ]; then
    echo '{"api": 1, "name": "there", "version": "3", "summary": "In shell"}'
    exit
fi
echo "$PYBUILD_API $# $1 ${PYBUILD_SOCK##*/}"
exit 9
"""


def test_an_executable_is_a_command(pybuild: program.Pybuild, place: Path) -> None:
    plugins.add_executable(place / "pybuild-there", SHELL)
    assert "there In shell" in " ".join(pybuild("--help").text.split())
    assert pybuild("there", "--help", "x y", status=9).text == "1 2 --help pybuild.sock\n"
    assert pybuild("-v", "there", "a", status=9).text == "1 1 a pybuild.sock\n"


def test_executables_of_path_are_used_where_that_is_switched_on(pybuild: program.Pybuild, tmp_path: Path) -> None:
    plugins.add_executable(tmp_path / "pybuild-there", SHELL)
    env = {"PATH": f"{tmp_path}{os.pathsep}{pybuild.env['PATH']}"}
    pybuild("there", status=2, env=env)
    pybuild("there", status=9, env={**env, "PYBUILD_PLUGINS_ON_PATH": "1"})


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("#!/bin/sh\nexit 4", "answered --pybuild-plugin with exit code 4"),
        ("#!/bin/sh\necho hello", "its answer to --pybuild-plugin cannot be read"),
        ("#!/no/such/interpreter", "cannot be run: No such file or directory"),
        (SHELL.replace('"api": 1', '"api": 2'), "is for version 2 of the interface, this is 1"),
        (SHELL.replace('"there"', '"other"'), "calls itself other"),
    ],
)
def test_an_executable_that_does_not_fit_is_named(
    pybuild: program.Pybuild, place: Path, script: str, problem: str
) -> None:
    plugins.add_executable(place / "pybuild-there", script)
    assert problem in pybuild("there", status=70).err
    assert problem in pybuild("plugin", "list", status=1).text


def test_slow_ones_are_waited_for_once_and_together(pybuild: program.Pybuild, place: Path) -> None:
    for name in "abc":
        plugins.add_executable(place / f"pybuild-{name}", "#!/bin/sh\nsleep 600\n")
    begun = time.monotonic()
    assert pybuild("--help").text.count("did not answer") == 3
    assert time.monotonic() - begun < 5
    begun = time.monotonic()
    pybuild("--help")
    assert time.monotonic() - begun < 1.5


def test_a_slow_import_is_told(pybuild: program.Pybuild, place: Path) -> None:
    code = "import time\ntime.sleep(1.1)\ndef hello() -> None:\n    print('at last')\n"
    plugins.add(place / "hello", ENTRY, {"third_hello.py": code})
    ended = pybuild("hello")
    assert ended.text == "at last\n"
    assert ended.err.startswith("note: plugin hello (third-party 1.2) took 1.")


def test_metadata_cannot_play_tricks_on_a_terminal(pybuild: program.Pybuild, place: Path) -> None:
    plugins.add(place / "hello", ENTRY, {}, summary="red \x1b[31m\tand more")
    for words in (["--help"], ["plugin", "list"]):
        assert "\x1b" not in pybuild(*words).text


def test_what_it_can_use_is_what_is_named() -> None:
    import pybuild.plugin

    assert sys.modules["pybuild.plugin"] is pybuild.plugin
    for name in pybuild.plugin.__all__:
        assert getattr(pybuild.plugin, name) is not None
    # A module of that name would take its place as soon as anything imports it
    modules = {path.stem for path in Path(pybuild.plugin.__file__).parent.glob("*.py")}
    assert not modules & {*pybuild.plugin.__all__}
    with pytest.raises(AttributeError, match=r"pybuild\.plugin has no Store"):
        _ = pybuild.plugin.Store


LINTER = """
    from pybuild.plugin import Dockerfile, Finding, instructions

    def lint(dockerfile: Dockerfile):
        print("this is no answer")
        for stage in dockerfile.stages:
            for at in stage.instructions:
                if isinstance(at, instructions.Env):
                    line = at.span.start_line
                    yield Finding("NoEnv", "an ENV", line, at.span.end_line, line, 1, 3)
"""
LINTERS = "[pybuild.linters]\nnoenv = third_lint:lint\n"


def test_a_linter_looks_at_what_is_checked(pybuild: program.Pybuild, place: Path, context: Path) -> None:
    plugins.add(place / "lint", LINTERS, {"third_lint.py": LINTER}, summary="No environment")
    (context / "Dockerfile").write_text("FROM scratch\nENV a=b\n")
    ended = pybuild("check", context, "--format", "json", status=1)
    [found] = json.loads(ended.text)["findings"]
    assert (found["code"], found["line"], found["about"]) == ("NoEnv", 2, "No environment")
    assert ended.err == "this is no answer\n"
    assert "NAME" in pybuild("plugin", "list").text
    pybuild("check", context, "--no-plugins")
    pybuild("check", context, "--skip", "NoEnv")
    pybuild("plugin", "disable", "noenv")
    pybuild("check", context)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("1 / 0", "cannot be loaded: ZeroDivisionError: division by zero"),
        ("def lint(dockerfile):\n    raise ValueError('no')", "has failed: ValueError: no"),
        ("def lint(dockerfile):\n    return [1]", "has failed: AttributeError: 'int' object has no attribute 'line'"),
        ("import os\ndef lint(dockerfile):\n    os._exit(5)", "has ended without an answer (exit code 5)"),
    ],
)
def test_a_linter_that_fails_is_named_and_the_rest_is_told(
    pybuild: program.Pybuild, place: Path, context: Path, code: str, told: str
) -> None:
    plugins.add(place / "a", LINTERS, {"third_lint.py": code})
    plugins.add(place / "b", LINTERS.replace("noenv", "good").replace("third", "other"), {"other_lint.py": LINTER})
    (context / "Dockerfile").write_text("FROM scratch\nENV a=b\nRUN sudo x\n")
    ended = pybuild("check", context, "--format", "github", status=70)
    assert f"plugin noenv (third-party 1.2) {told}" in ended.err
    assert [line.partition("title=")[2].partition(":")[0] for line in ended.text.splitlines()] == ["NoEnv", "Sudo"]


EXPORTER = """
    import tarfile
    from pathlib import Path

    from pybuild.plugin import ExportedImage, UsageError

    def export(image: ExportedImage) -> None:
        if "to" not in image.attrs:
            raise UsageError("it wants to=FILE", "say where")
        with tarfile.open(fileobj=image.archive, mode="r|") as archive:
            names = sorted(member.name for member in archive)
        print("not for standard output")
        Path(image.attrs["to"]).write_text(f"{image.id} {image.tags} {'index.json' in names}")
"""
EXPORTERS = "[pybuild.exporters]\nthird = third_export:export\n"


def test_an_exporter_gets_the_image(pybuild: program.Pybuild, place: Path, context: Path) -> None:
    plugins.add(place / "export", EXPORTERS, {"third_export.py": EXPORTER})
    (context / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    out = pybuild.base / "out"
    ended = pybuild("build", "-q", "-t", "x:1", "-o", f"type=third,to={out}", context)
    assert out.read_text() == f"{ended.text.strip()} ('x:1',) True"
    failed = pybuild("build", "-q", "-o", "type=third", context, status=70).err
    assert "plugin third (third-party 1.2) has failed: it wants to=FILE\nhint: say where\n" in failed
    known = pybuild("build", "-o", "type=x", context, status=2).err.splitlines()[1]
    assert known.startswith("hint: known: oci, ")
    assert known.endswith(", third")


def test_an_exporter_that_cannot_be_used_is_told_before_the_build(
    pybuild: program.Pybuild, place: Path, context: Path
) -> None:
    plugins.add(place / "export", EXPORTERS, {}, requires=("pybuild>=99",))
    (context / "Dockerfile").write_text("FROM scratch\n")
    ended = pybuild("build", "-o", "type=third", context, status=70)
    assert ended.err.startswith("error: plugin third (third-party 1.2) cannot be used: needs pybuild >=99")


LISTENERS = "[pybuild.events]\near = third_ear:listen\n"


def test_a_listener_hears_a_build(pybuild: program.Pybuild, place: Path, context: Path) -> None:
    out = pybuild.base / "out"
    code = f"""
        def listen(events):
            print("not to be seen")
            with open({str(out)!r}, "w") as file:
                for event in events:
                    file.write(event["event"] + "\\n")
    """
    plugins.add(place / "ear", LISTENERS, {"third_ear.py": code})
    (context / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    ended = pybuild("build", "-q", context)
    assert ended.err == ""
    names = out.read_text().split()
    assert (names[0], names[-1]) == ("Planned", "Built")
    # A build that fails is heard too
    (context / "Dockerfile").write_text("FROM scratch\nCOPY nothing /\n")
    pybuild("build", "-q", context, status=1)
    assert out.read_text().split()[-1] == "Failed"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("def listen(events):\n    raise ValueError('no')", "has failed: ValueError: no"),
        ("import time\ndef listen(events):\n    time.sleep(600)", "was not done 2 s after the build"),
        ("import os\nos._exit(4)", "has ended without an answer (exit code 4)"),
        ("def listen(events):\n    next(events)", ""),
    ],
)
def test_a_listener_that_fails_or_is_slow_does_not_hold_a_build(
    pybuild: program.Pybuild, place: Path, context: Path, code: str, told: str
) -> None:
    plugins.add(place / "ear", LISTENERS, {"third_ear.py": code})
    (context / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    ended = pybuild("build", "-q", context)
    assert ended.text.startswith("sha256:")
    assert ended.err == (f"warning: plugin ear (third-party 1.2) {told}\n" if told else "")


def test_a_listener_that_falls_behind_is_dropped(
    pybuild: program.Pybuild, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pybuild.api.events import Notice
    from pybuild.plugin.listening import Listeners

    plugins.add(place / "ear", LISTENERS, {"third_ear.py": "import time\ndef listen(events):\n    time.sleep(600)"})
    for name in ("PYBUILD_PLUGIN_PATH", "HOME", "PYTHONPATH"):
        monkeypatch.setenv(name, pybuild.env[name])
    listeners = Listeners()
    begun = time.monotonic()
    for _ in range(6000):
        listeners.tell(Notice("info", "x" * 1000))
    listeners.close()
    assert time.monotonic() - begun < 5
    assert capsys.readouterr().err == "warning: plugin ear (third-party 1.2) does not keep up with the build\n"


def test_nothing_of_a_third_party_runs_in_the_daemon(context: Path, tmp_path: Path) -> None:
    """All that a plugin can be, in a build by the daemon: each notes where it runs."""
    out = tmp_path / "noted"
    out.mkdir()
    note = f"""
        import os
        def note(role):
            words = open("/proc/self/cmdline").read().split(chr(0))
            open({str(out)!r} + "/" + role, "w").write(f"{{os.getpid()}} {{' '.join(words[-5:])}}")
        def listen(events):
            note("events")
            for event in events:
                pass
        def export(image):
            note("exporter")
            image.archive.read()
        def lint(dockerfile):
            note("linter")
            return []
        def hello():
            note("command")
    """
    entry = "[pybuild.commands]\nhello = third_all:hello\n[pybuild.linters]\nl = third_all:lint\n"
    entry += "[pybuild.exporters]\nx = third_all:export\n[pybuild.events]\ne = third_all:listen\n"
    with program.world("daemon") as pybuild:
        pybuild.env["PYBUILD_PLUGIN_PATH"] = str(pybuild.base / "plugins")
        (pybuild.base / "plugins").mkdir(mode=0o755)
        plugins.add(pybuild.base / "plugins" / "all", entry, {"third_all.py": note})
        (context / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
        pybuild("build", "-q", "-o", "type=x", context)
        pybuild("check", context, "--skip", "*")
        pybuild("hello")
        daemon = str(pybuild.json("daemon", "status", "--json")["pid"])
        mapped = Path(f"/proc/{daemon}/environ").read_bytes()
    assert b"PYBUILD_" in mapped
    noted = {path.name: path.read_text().split(" ", 1) for path in out.iterdir()}
    assert sorted(noted) == ["command", "events", "exporter", "linter"]
    assert daemon not in [pid for pid, _ in noted.values()]
    for role, word in (("events", "events e"), ("exporter", "export x"), ("linter", "lint l")):
        assert f"_child plugin {word}" in noted[role][1]
