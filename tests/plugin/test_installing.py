"""`pybuild plugin install` and its like, on wheels, projects and executables made here."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import plugins, program
from support.processes import adopt_orphans

ENTRY = "[pybuild.commands]\nhello = third_hello:hello\n"
HELLO = "from pybuild.plugin import write_line\n\ndef hello() -> None:\n    write_line('hello')\n"
OURS = "pybuild>=0.1,<1"


@pytest.fixture
def pybuild() -> Iterator[program.Pybuild]:
    adopt_orphans()
    with program.world("inline") as pybuild:
        yield pybuild


@pytest.fixture
def there(pybuild: program.Pybuild) -> Path:
    return pybuild.home / ".local/share/pybuild/plugins"


def test_a_wheel_is_installed_pinned_verified_and_removed(
    pybuild: program.Pybuild, there: Path, tmp_path: Path
) -> None:
    wheel = plugins.wheel(tmp_path, "third-hello", {"third_hello.py": HELLO}, entry_points=ENTRY, requires=(OURS,))
    assert pybuild("plugin", "install", wheel).text == "installed third-hello 1.0\n"
    assert pybuild("hello").text == "hello\n"
    lock = json.loads((there / "plugins.lock").read_text())["plugins"]["third_hello"]
    digest = subprocess.run(["sha256sum", str(wheel)], capture_output=True, text=True, check=True).stdout.split()[0]
    assert (lock["name"], lock["version"], lock["sha256"], lock["source"]) == ("third-hello", "1.0", digest, wheel.name)
    assert pybuild("plugin", "verify").text == "third-hello ok\n"
    file = there / "third_hello" / "third_hello.py"
    file.write_text(HELLO + "\n")
    (file.parent / "more.py").write_text("")
    assert pybuild("plugin", "verify", status=1).text == (
        "third-hello has changed: third_hello.py\nthird-hello is new: more.py\n"
    )
    # A newer one takes its place as a whole
    newer = plugins.wheel(tmp_path, "third-hello", {"third_hello.py": HELLO}, version="2.0", entry_points=ENTRY)
    pybuild("plugin", "install", newer)
    assert pybuild("plugin", "verify").text == "third-hello ok\n"
    assert json.loads(pybuild("plugin", "show", "hello", "--json").text)["version"] == "2.0"
    assert pybuild("plugin", "remove", "hello").text == "removed third-hello 2.0\n"
    assert "no such command: hello" in pybuild("hello", status=2).err
    assert sorted(path.name for path in there.iterdir()) == ["plugins.lock"]
    assert "no such plugin: hello" in pybuild("plugin", "remove", "hello", status=1).err


def _change(members: dict[str, bytes]) -> None:
    members["third_hello.py"] += b"#"


def _more(members: dict[str, bytes]) -> None:
    members["more.py"] = b""


def _less(members: dict[str, bytes]) -> None:
    del members["third_hello.py"]


def _outside(members: dict[str, bytes]) -> None:
    members["../outside.py"] = b""


def _absolute(members: dict[str, bytes]) -> None:
    members["/tmp/outside.py"] = b""


def _no_digest(members: dict[str, bytes]) -> None:
    name = next(name for name in members if name.endswith("RECORD"))
    members[name] = b"".join(
        b"third_hello.py,,\n" if line.startswith(b"third_hello.py") else line for line in members[name].splitlines(True)
    )


def _another_version(members: dict[str, bytes]) -> None:
    name = next(name for name in members if name.endswith("WHEEL"))
    members[name] = members[name].replace(b"1.0", b"2.0")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_change, "a file of the wheel is not what RECORD says: third_hello.py"),
        (_more, "RECORD of the wheel and its files differ: 'more.py'"),
        (_less, "RECORD of the wheel and its files differ: 'third_hello.py'"),
        (_no_digest, "RECORD of the wheel and its files differ: 'third_hello.py'"),
        (_outside, "the wheel has a file outside of it: '../outside.py'"),
        (_absolute, "the wheel has a file outside of it: '/tmp/outside.py'"),
        (_another_version, "wheels of version 2.0 are not known"),
    ],
)
def test_a_wheel_that_is_not_right_leaves_nothing(
    pybuild: program.Pybuild, there: Path, tmp_path: Path, change: Callable[[dict[str, bytes]], None], told: str
) -> None:
    wheel = plugins.wheel(tmp_path, "third-hello", {"third_hello.py": HELLO}, entry_points=ENTRY, change=change)
    assert told in pybuild("plugin", "install", wheel, status=1).err
    assert [path.name for path in there.iterdir()] == []


def test_what_does_not_fit_is_refused(pybuild: program.Pybuild, there: Path, tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"third_hello.py": HELLO}
    for given, told in (
        (plugins.wheel(tmp_path, "a", files), "a 1.0 has no plugin for pybuild"),
        (plugins.wheel(tmp_path, "b", files, entry_points=ENTRY, tag="cp39-cp39-win32"), "not a wheel for this Python"),
        (plugins.wheel(tmp_path, "c", files, entry_points=ENTRY, requires=("pybuild>=99",)), "it needs pybuild >=99"),
        (tmp_path / "none.whl", "no such file, and no name of a distribution"),
    ):
        assert told in pybuild("plugin", "install", given, status=1).err
    broken = tmp_path / "d-1.0-py3-none-any.whl"
    broken.write_bytes(b"PK")
    assert "cannot read the wheel" in pybuild("plugin", "install", broken, status=1).err
    assert [path.name for path in there.iterdir()] == []


def test_dependencies_come_along_from_a_directory(pybuild: program.Pybuild, there: Path, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    code = "from third_one import VALUE\n\ndef hello() -> None:\n    print(VALUE)\n"
    requires = (OURS, "third-one>=1,<2", "not-here; python_version < '3'", "extra-one; extra == 'more'")
    plugins.wheel(wheels, "third-hello", {"third_hello.py": code}, entry_points=ENTRY, requires=requires)
    plugins.wheel(wheels, "third-one", {"third_one.py": "from third_two import VALUE"}, requires=("third-two",))
    plugins.wheel(wheels, "third-one", {"third_one.py": "VALUE = 'too new'"}, version="2.0")
    plugins.wheel(wheels, "third-two", {"third_two/__init__.py": "VALUE = 'two'"})
    plugins.wheel(wheels, "third-two", {"third_two/__init__.py": "VALUE = 'new'"}, version="1.10")
    pybuild("plugin", "install", "third-hello", "--offline", wheels)
    assert pybuild("hello").text == "new\n"
    assert pybuild("plugin", "verify", "third-hello").text == "third-hello ok\n"
    (wheels / "third_two-1.0-py3-none-any.whl").unlink()
    (wheels / "third_two-1.10-py3-none-any.whl").unlink()
    told = pybuild("plugin", "install", "third-hello", "--offline", wheels, status=1).err
    assert f"no wheel of third-two that fits here in: {wheels}" in told
    # The one that was there is there
    assert pybuild("hello").text == "new\n"


@pytest.mark.skipif(
    shutil.which("cc") is None or not Path(sysconfig.get_path("include"), "Python.h").exists(),
    reason="there is no C compiler, or no headers of Python",
)
def test_a_compiled_extension(pybuild: program.Pybuild, tmp_path: Path) -> None:
    source = tmp_path / "third_c.c"
    source.write_text("""
        #include <Python.h>
        static PyObject *seven(PyObject *self, PyObject *args) { return PyLong_FromLong(7); }
        static PyMethodDef methods[] = {{"seven", seven, METH_NOARGS, ""}, {0}};
        static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "third_c", 0, -1, methods};
        PyMODINIT_FUNC PyInit_third_c(void) { return PyModule_Create(&module); }
    """)
    built = tmp_path / f"third_c{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = sysconfig.get_path("include")
    subprocess.run(["cc", "-shared", "-fPIC", f"-I{include}", str(source), "-o", str(built)], check=True)
    code = "from third_c import seven\n\ndef hello() -> None:\n    print(seven())\n"
    minor = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    wheel = plugins.wheel(
        tmp_path,
        "third-hello",
        {"third_hello.py": code, built.name: built.read_bytes()},
        entry_points=ENTRY,
        tag=f"{minor}-{minor}-linux_{os.uname().machine}",
    )
    pybuild("plugin", "install", wheel)
    assert pybuild("hello").text == "7\n"


def test_an_executable_is_installed_and_removed(pybuild: program.Pybuild, there: Path, tmp_path: Path) -> None:
    script = """\
        #!/bin/sh
        [ "$1" = --pybuild-plugin ] && echo '{"api": 1, "name": "there", "version": "3"}' || echo here
    """
    given = plugins.add_executable(tmp_path / "pybuild-there", script)
    assert pybuild("plugin", "install", given).text == "installed pybuild-there 3\n"
    assert pybuild("there").text == "here\n"
    assert pybuild("plugin", "verify").text == "pybuild-there ok\n"
    with (there / "pybuild-there").open("a") as file:
        file.write("#\n")
    assert pybuild("plugin", "verify", status=1).text == "pybuild-there has changed\n"
    assert pybuild("plugin", "remove", "there").text == "removed pybuild-there 3\n"
    assert not (there / "pybuild-there").exists()
    given.write_text("#!/bin/sh\nexit 1\n")
    assert "exit code 1" in pybuild("plugin", "install", given, status=1).err


@pytest.mark.slow
def test_a_project_is_begun_installed_in_place_and_tested(pybuild: program.Pybuild, tmp_path: Path) -> None:
    made = pybuild("plugin", "new", "say-it", cwd=tmp_path)
    project = tmp_path / "pybuild-say-it"
    assert f"{project.name}/pyproject.toml" in made.text
    assert "there is something already" in pybuild("plugin", "new", "say-it", cwd=tmp_path, status=1).err
    assert "small letters" in pybuild("plugin", "new", "Say", cwd=tmp_path, status=2).err
    assert pybuild("plugin", "install", "--link", project).text == "installed pybuild-say-it 0.1.0\n"
    assert pybuild("say-it", "you", "--loud").text == "hello you!\n"
    code = project / "src/pybuild_say_it/__init__.py"
    code.write_text(code.read_text().replace("hello ", "good day "))
    assert pybuild("say-it").text == "good day world\n"
    assert pybuild("plugin", "verify").text == "pybuild-say-it ok\n"
    assert "1 failed, 1 passed" in pybuild("plugin", "test", project, status=1).text
    code.write_text(code.read_text().replace("good day ", "hello "))
    assert "2 passed" in pybuild("plugin", "test", project).text
    # A copy stays as it was
    pybuild("plugin", "install", project)
    code.write_text("")
    assert pybuild("say-it").text == "hello world\n"
    assert pybuild("plugin", "verify").text == "pybuild-say-it ok\n"


@pytest.mark.slow
def test_what_uses_more_than_the_public_interface_fails_its_tests(pybuild: program.Pybuild, tmp_path: Path) -> None:
    pybuild("plugin", "new", "say", cwd=tmp_path)
    code = tmp_path / "pybuild-say/src/pybuild_say/__init__.py"
    code.write_text(f"import pybuild.store.store\n{code.read_text()}")
    told = pybuild("plugin", "test", tmp_path / "pybuild-say", status=1).text
    assert "only pybuild.plugin is for plugins: pybuild_say uses pybuild.store" in told


def test_the_environment_of_plugins_is_told(pybuild: program.Pybuild, there: Path) -> None:
    values = json.loads(pybuild("plugin", "env", "--json").text)
    assert values["api"] == 1
    assert values["directories"] == [str(there)]
    assert values["typer"].startswith("0.")
