"""The frozen program: small, soon there, and nothing of how it is packed reaches what it runs."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import frozen, plugins, registry, repositories
from support.program import Pybuild
from support.registry import LAYER, digest
from support.repositories import Repository

pytestmark = pytest.mark.frozen

WINDOWS = """nt _msi msilib msvcrt winreg winsound _winapi _overlapped _scproxy asyncio.windows_events
    asyncio.windows_utils encodings.mbcs encodings.oem multiprocessing.popen_spawn_win32"""
LEFT_OUT = """_tkinter tkinter turtle turtledemo idlelib test ensurepip lib2to3 pydoc_data readline
    nis _dbm _gdbm dbm.gnu dbm.ndbm"""
BUNDLES = ("LD_LIBRARY_PATH", "_PYI_", "_MEI", "PYINSTALLER_")


def leaked(listing: str) -> list[str]:
    return [line for line in listing.splitlines() if line.split("=")[0].startswith(BUNDLES)]


def recorder(program: Pybuild, name: str, then: str) -> tuple[str, Path]:
    """Make a program that writes down its environment; return a PATH with it and what it writes to."""
    told = program.base / f"{name}.environment"
    bin_ = program.base / "bin"
    plugins.add_executable(bin_ / name, f"#!/bin/sh\nenv >> {told}\n{then}\n")
    return f"{bin_}:{program.env['PATH']}", told


def test_is_one_file_of_twenty_megabytes() -> None:
    assert os.path.getsize(frozen.PROGRAM) <= 20_000_000


@pytest.mark.slow
def test_starts_at_once_also_for_the_first_time(tmp_path: Path) -> None:
    def seconds(home: Path) -> float:
        begun = time.perf_counter()
        subprocess.run([frozen.PROGRAM, "--version"], env={"HOME": str(home), "PATH": "/usr/bin:/bin"}, check=True)
        return time.perf_counter() - begun

    homes = [tmp_path / str(number) for number in range(5)]
    for home in homes:
        home.mkdir()
    assert min(map(seconds, homes)) <= 0.4
    assert min(seconds(homes[0]) for _ in range(30)) <= 0.03


def test_has_no_python_on_its_path(inline: Pybuild) -> None:
    found = subprocess.run(
        ["sh", "-c", "command -v python3 python python3.11"], env=inline.env, capture_output=True, check=False
    )
    assert found.stdout == b""
    assert inline("--version").text.startswith("pybuild ")


def test_knows_all_commands(inline: Pybuild) -> None:
    from pybuild.commands.table import BUILT_IN

    listed = inline("--help").text
    assert [name for name in BUILT_IN if f"\n  {name} " not in listed] == []
    assert "complete -o filenames" in inline("completion", "bash").text


@pytest.mark.userns
def test_nothing_of_the_bundle_reaches_a_run(pybuild: Pybuild, context: Path) -> None:
    pybuild.add_base()
    text = (
        "FROM base\nRUN env > /told; cat /proc/1/environ >> /told 2>/dev/null; true\nRUN --network=none env >> /told\n"
    )
    image = pybuild.image(context, dockerfile=text, env={"LD_LIBRARY_PATH": "/of/the/user"})
    told = image.read("told").replace("\0", "\n")
    assert "PATH=" in told
    assert leaked(told) == []


@pytest.mark.userns
@pytest.mark.git
def test_git_has_nothing_of_the_bundle(pybuild: Pybuild, context: Path, tmp_path: Path) -> None:
    made = Repository(tmp_path / "served" / "a.git")
    made.commit(README="first")
    path, told = recorder(pybuild, "git", 'exec /usr/bin/git "$@"')
    with repositories.serve(tmp_path / "served") as web:
        image = pybuild.image(
            context,
            "--allow=network.host",
            dockerfile=f"FROM scratch\nADD {web.url('/a.git')} /x/\n",
            env={"PATH": path, "LD_LIBRARY_PATH": "/of/the/user"},
        )
    assert image.read("x/README") == "first"
    assert leaked(told.read_text()) == []


@pytest.mark.parametrize("users", ["", "/of/the/user"])
def test_a_credential_helper_has_what_the_user_has(pybuild: Pybuild, users: str) -> None:
    path, told = recorder(pybuild, "docker-credential-told", "cat > /dev/null; echo credentials not found; exit 1")
    config = pybuild.home / ".docker" / "config.json"
    config.parent.mkdir()
    config.write_text('{"credsStore": "told"}')
    env = {"PATH": path, **({"LD_LIBRARY_PATH": users} if users else {})}
    with registry.fake() as found:
        found.contents.image("app", "latest", [(LAYER, bytes(1024), digest(bytes(1024)))])
        found.contents.challenge = 'Basic realm="tests"'
        pybuild("pull", found.name("app"), status=1, env=env)
    listing = told.read_text()
    assert set(leaked(listing)) == ({f"LD_LIBRARY_PATH={users}"} if users else set())


def test_an_executable_plugin_has_what_the_user_has(inline: Pybuild) -> None:
    folder = inline.base / "plugins"
    plugins.add_executable(
        folder / "pybuild-told",
        """\
        #!/bin/sh
        [ "$1" != --pybuild-plugin ] || exec echo '{"api": 1, "name": "told", "version": "1", "summary": "tells"}'
        env
        "$PYBUILD_BIN" --version
        """,
    )
    told = inline("told", env={"PYBUILD_PLUGIN_PATH": str(folder)}).text
    assert leaked(told) == []
    assert told.splitlines()[-1] == inline("--version").text.strip()


def test_tells_licences_of_all_that_is_bundled(inline: Pybuild) -> None:
    listed = inline("self", "licences").text
    for name in ("Python", "libssl", "libsqlite3", "isal", "aiohttp", "pyinstaller", "typer"):
        assert f"\n{name}" in listed
    assert "PYTHON SOFTWARE FOUNDATION" in inline("self", "licences", "python").text
    texts = inline("self", "licences", "--all").text
    for words in ("Apache License", "OpenSSL", "Intel Corporation", "Bootloader", "Zstandard"):
        assert words in texts
    sbom = json.loads(inline("self", "sbom").text)
    assert sbom["spdxVersion"] == "SPDX-2.3"
    assert len({row["SPDXID"] for row in sbom["packages"]}) == len(sbom["packages"]) == len(listed.splitlines()) - 1
    purls = [reference["referenceLocator"] for row in sbom["packages"] for reference in row["externalRefs"]]
    assert any(purl.startswith("pkg:pypi/urllib3@") for purl in purls)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_its_sbom_is_valid_by_the_library_of_the_formats_makers(inline: Pybuild, tmp_path: Path) -> None:
    parsing = pytest.importorskip("spdx_tools.spdx.parser.parse_anything")
    validator = pytest.importorskip("spdx_tools.spdx.validation.document_validator")
    place = tmp_path / "pybuild.spdx.json"
    place.write_text(inline("self", "sbom").text)
    assert validator.validate_full_spdx_document(parsing.parse_file(str(place))) == []


@pytest.mark.userns
def test_what_a_build_imports_is_not_in_the_archive_of_the_rest(inline: Pybuild, context: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(Path(inline.env["PYBUILD_UNPACK_DIR"]), copy, symlinks=True)
    [archive] = copy.glob("*/lib/later.zip")
    archive.unlink()
    inline.add_base()
    (context / "f").write_text("x")
    text = b"FROM base\nRUN echo x > /y\nCOPY f /\n"
    for _ in range(2):
        inline("build", "-q", context, "-f", "-", stdin=text, env={"PYBUILD_UNPACK_DIR": str(copy)})
    assert "Build an image" in inline("--help", env={"PYBUILD_UNPACK_DIR": str(copy)}).text


def test_plugins_are_told_which_libraries_they_get(inline: Pybuild) -> None:
    told = json.loads(inline("plugin", "env", "--json").text)
    assert {"typer", "urllib3", "msgspec", "tqdm", "platformdirs", "packageurl-python"} <= told.keys()
    # Typer would want it, and does without
    assert "rich" not in told


def test_a_plugin_has_the_whole_standard_library(inline: Pybuild) -> None:
    """Of packages also the modules that nothing imports but plugins."""
    folder = plugins.add(
        inline.base / "plugins" / "all",
        "[pybuild.commands]\nevery = every:run",
        {
            "every.py": """\
                import importlib, pkgutil, sys, warnings

                def run():
                    warnings.simplefilter("ignore")
                    names = sorted(sys.stdlib_module_names - {"antigravity", "this"})
                    for name in names:
                        try:
                            module = importlib.import_module(name)
                        except ImportError:
                            print(name)
                            continue
                        inner = pkgutil.iter_modules(getattr(module, "__path__", ()))
                        names += [f"{name}.{it.name}" for it in inner if it.name != "__main__"]
                    print(len(names) > 500, sys.modules["os"].__file__.endswith("os.pyc"))
            """
        },
        name="every",
    )
    *lacking, found = inline("every", env={"PYBUILD_PLUGIN_PATH": str(folder.parent)}).text.splitlines()
    assert found == "True True"
    assert set(lacking) - {*WINDOWS.split(), *LEFT_OUT.split()} == set()


def test_a_plugin_may_have_compiled_modules(inline: Pybuild) -> None:
    """It brings what the tests have that is compiled for the program's Python and not in the program."""
    found = [Path(place, name) for place in sys.path for name in ("rpds", "charset_normalizer", "markupsafe")]
    package = next((path for path in found if list(path.glob("*.cpython-311-*.so"))), None)
    if package is None:
        pytest.skip("no compiled module for Python 3.11 is installed here that the program lacks")
    folder = inline.base / "plugins" / "compiled"
    shutil.copytree(package, folder / package.name)
    text = f"""\
        import sys

        def run():
            import {package.name}

            places = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
            print([place for place in places if place.startswith({str(folder)!r}) and place.endswith(".so")] != [])
    """
    plugins.add(folder, "[pybuild.commands]\ncompiled = compiled:run", {"compiled.py": text}, name="compiled")
    assert inline("compiled", env={"PYBUILD_PLUGIN_PATH": str(folder.parent)}).text == "True\n"


def test_ssh_has_nothing_of_the_bundle(inline: Pybuild) -> None:
    path, told = recorder(inline, "ssh", "exit 255")
    inline("--host", "ssh://builder@nowhere.example", "images", status=1, env={"PATH": path, "PYBUILD_INLINE": "0"})
    assert "PATH=" in told.read_text()
    assert leaked(told.read_text()) == []


def test_its_daemon_goes_on_when_the_client_has_ended(daemon: Pybuild, context: Path) -> None:
    daemon.add_base()
    (context / "f").write_text("x")
    daemon("build", "-q", "-t", "app", context, "-f", "-", stdin=b"FROM base\nCOPY f /\n")
    # What it has not needed so far it imports now
    assert "app" in daemon("images").text
    assert daemon("daemon", "status").text.startswith("running since")


@pytest.mark.userns
def test_finds_that_it_works_here(inline: Pybuild) -> None:
    assert inline("self", "check").text.endswith("\nall works\n")
