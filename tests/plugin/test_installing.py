"""`pybuild plugin install` and its like, on wheels, projects and executables made here."""

import ensurepip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from pybuild.plugin.projects import make
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


@pytest.fixture
def index(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A package index on loopback (PEP 503): its directory and its address. A wheel in it is there under its name."""
    root = tmp_path / "simple"
    root.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            self.path = self.path.partition("#")[0]
            name = self.path.strip("/").partition("/")[2]
            if self.path.endswith("/"):
                found = [path for path in root.iterdir() if path.name.startswith(f"{name.replace('-', '_')}-")]
                data = "".join(f'<a href="/files/{path.name}">{path.name}</a>' for path in found).encode()
                self._answer(data if found else None, "text/html")
            else:
                self._answer((root / self.path.rpartition("/")[2]).read_bytes(), "application/octet-stream")

        def _answer(self, data: bytes | None, kind: str) -> None:
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, format: str, *args: object) -> None:
            asked.append(self.path)

    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield root, f"http://127.0.0.1:{server.server_port}/simple"
    server.shutdown()
    thread.join()
    server.server_close()
    assert not [path for path in asked if path.startswith("/simple/pybuild/")], "pybuild itself is never fetched"


def _pip(directory: Path) -> Path:
    place = directory / "pip"
    place.write_text(f'#!/bin/sh\nexec {sys.executable} -m pip "$@"\n')
    place.chmod(0o755)
    return directory


def _uv(directory: Path) -> Path:
    found = shutil.which("uv")
    if found is None:
        pytest.skip("there is no uv")
    (directory / "uv").symlink_to(found)
    return directory


@pytest.mark.parametrize("fetcher", [_pip, pytest.param(_uv, marks=pytest.mark.slow)])
def test_names_are_fetched_by_pip_or_uv(
    pybuild: program.Pybuild, there: Path, tmp_path: Path, index: tuple[Path, str], fetcher: Callable[[Path], Path]
) -> None:
    wheels, address = index
    (tmp_path / "bin").mkdir()
    bundled = [
        *Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl"),
        *Path("/usr/share/python-wheels").glob("pip-*"),
    ]
    if fetcher is _uv:
        shutil.copy(bundled[0], wheels)
    env = {
        "PATH": f"{fetcher(tmp_path / 'bin')}{os.pathsep}/usr/bin{os.pathsep}/bin",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": address,
        "UV_DEFAULT_INDEX": address,
        "UV_NO_CONFIG": "1",
        "UV_PYTHON": sys.executable,
    }
    if fetcher is _uv:
        # No pip but the one that uv runs, whose script wants these
        for name in ("realpath", "dirname"):
            (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
        env["PATH"] = f"{tmp_path / 'bin'}"
    code = "from third_one import VALUE\n\ndef hello() -> None:\n    print(VALUE)\n"
    requires = (OURS, "third-one[more]>=1,<2")
    for version in ("1.0", "1.2"):
        plugins.wheel(
            wheels, "third-hello", {"third_hello.py": code}, entry_points=ENTRY, requires=requires, version=version
        )
    minor = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    for tag, value in (
        ("cp39-cp39-linux_s390x", "of another"),
        (f"{minor}-{minor}-linux_{os.uname().machine}", "here"),
    ):
        plugins.wheel(
            wheels,
            "third-one",
            {"third_one.py": f"VALUE = {value!r}"},
            tag=tag,
            requires=("third-two; extra == 'more'", "never; extra == 'other'"),
        )
    plugins.wheel(wheels, "third-two", {"third_two.py": ""})
    assert pybuild("plugin", "install", "third-hello<1.2", env=env).text == "installed third-hello 1.0\n"
    assert pybuild("hello").text == "here\n"
    lock = json.loads((there / "plugins.lock").read_text())["plugins"]["third_hello"]
    digests = {one["name"]: one["sha256"] for one in lock["dependencies"]}
    assert sorted(digests) == ["third-one", "third-two"]
    assert digests["third-two"] == hashlib.sha256((wheels / "third_two-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    assert pybuild("plugin", "verify").text == "third-hello ok\n"
    told = pybuild("plugin", "install", "not-there", env=env, status=1).err
    assert "could not get not-there: ERROR" in told
    empty = {**env, "PATH": str(tmp_path / "nothing")}
    assert "there is neither pip nor uv" in pybuild("plugin", "install", "third-hello", env=empty, status=1).err


def test_requirements_that_exclude_each_other_are_told(pybuild: program.Pybuild, there: Path, tmp_path: Path) -> None:
    requires = ("third-one", "third-two>=2")
    plugins.wheel(tmp_path, "third-hello", {"third_hello.py": HELLO}, entry_points=ENTRY, requires=requires)
    plugins.wheel(tmp_path, "third-one", {"third_one.py": ""}, requires=("third-two<2",))
    for version in ("1.5", "2.5"):
        plugins.wheel(tmp_path, "third-two", {"third_two.py": ""}, version=version)
    told = pybuild("plugin", "install", "third-hello", "--offline", tmp_path, status=1).err
    assert "third-one needs third-two<2, and another one got third-two 2.5" in told
    assert [path.name for path in there.iterdir()] == []


def test_what_pybuild_brings_along_counts_in_its_own_version(
    pybuild: program.Pybuild, there: Path, tmp_path: Path
) -> None:
    brought = json.loads(pybuild("plugin", "env", "--json").text)
    # One that pybuild names, and one that only its libraries need
    for name in ("typer", "aiohappyeyeballs"):
        wheel = plugins.wheel(
            tmp_path, "third-hello", {"third_hello.py": HELLO}, entry_points=ENTRY, requires=(f"{name}<0.0.1",)
        )
        told = pybuild("plugin", "install", wheel, status=1).err
        assert f"third-hello needs {name}<0.0.1, and pybuild itself has {name} {brought[name]}" in told
        wheel = plugins.wheel(
            tmp_path, "third-hello", {"third_hello.py": HELLO}, entry_points=ENTRY, requires=(f"{name}>0.0.1",)
        )
        pybuild("plugin", "install", wheel)
    assert json.loads((there / "plugins.lock").read_text())["plugins"]["third_hello"]["dependencies"] == []


def test_what_claims_a_built_in_name_is_refused(pybuild: program.Pybuild, there: Path, tmp_path: Path) -> None:
    entry = ENTRY.replace("hello =", "images =")
    wheel = plugins.wheel(tmp_path, "third-hello", {"third_hello.py": HELLO}, entry_points=entry)
    told = pybuild("plugin", "install", wheel, status=1).err
    assert "cannot install third-hello 1.0: a built-in command has its name: images" in told
    script = """\
        #!/bin/sh
        echo '{"api": 1, "name": "images", "version": "3"}'
    """
    given = plugins.add_executable(tmp_path / "pybuild-images", script)
    assert "a built-in command has its name: images" in pybuild("plugin", "install", given, status=1).err
    future = script.replace('"api": 1, "name": "images"', '"api": 2, "name": "later"')
    given = plugins.add_executable(tmp_path / "pybuild-later", future)
    told = pybuild("plugin", "install", given, status=1).err
    assert "cannot install pybuild-later: it is for version 2 of the interface, this is 1" in told
    assert [path.name for path in there.iterdir()] == []


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


@pytest.mark.parametrize("name", ["for", "name", "async"])
def test_a_project_may_have_a_name_that_python_keeps_to_itself(tmp_path: Path, name: str) -> None:
    made = make(name, tmp_path)
    compile((tmp_path / f"src/pybuild_{name}/__init__.py").read_text(), name, "exec")
    assert f'{name} = "pybuild_{name}:{name}_"' in made[0].read_text()


def test_no_project_is_begun_for_a_command_that_is_built_in(pybuild: program.Pybuild, tmp_path: Path) -> None:
    for name in ("build", "layers"):
        told = pybuild("plugin", "new", name, cwd=tmp_path, status=2).err
        assert f"a built-in command has this name: {name}" in told
        assert f"{name}: it is built in" in pybuild("plugin", "disable", name, status=1).err
    assert not [*tmp_path.glob("pybuild-*")]


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
    assert "1 failed, 2 passed" in pybuild("plugin", "test", project, status=1).text
    code.write_text(code.read_text().replace("good day ", "hello "))
    assert "3 passed" in pybuild("plugin", "test", project).text
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
