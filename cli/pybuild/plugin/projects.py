"""Projects of plugins: made anew, and laid out as if they had been built, without a build."""

import hashlib
import keyword
import os
import re
import shutil
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pybuild.errors import ConflictError, NotFoundError, PybuildError, UsageError
from pybuild.plugin.wheels import Wheel, write_record


def lay_out(project: Path, folder: Path, *, link: bool) -> Wheel:
    """Fill a folder with what is in a project's `src`, and metadata made of its `pyproject.toml`; return what it is.

    With `link` the packages stay where they are. That suffices for Python alone: what has to be compiled, or computes
    its metadata, needs a wheel. Raises NotFoundError and PybuildError.
    """
    about = _read(project)
    name, version = about["name"], about["version"]
    source = project / "src"
    if not source.is_dir():
        raise NotFoundError(f"no such directory: {source}", "a project has its packages in src; or install a wheel")
    for path in sorted(source.iterdir()):
        if path.name.startswith((".", "__pycache__")) or path.name.endswith(".egg-info"):
            continue
        target = folder / path.name
        if link:
            target.symlink_to(path)
        elif path.is_dir():
            shutil.copytree(path, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(path, target)
    info = f"{re.sub(r'[-_.]+', '_', name).lower()}-{version}.dist-info"
    (folder / info).mkdir(mode=0o755)
    requires = tuple(about.get("dependencies", ()))
    headers = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        f"Summary: {about.get('description', '')}",
    ]
    headers += [f"Requires-Dist: {requirement}" for requirement in requires]
    (folder / info / "METADATA").write_text("\n".join([*headers, ""]), encoding="utf-8")
    groups = [
        "\n".join([f"[{group}]", *(f"{key} = {value}" for key, value in entries.items()), ""])
        for group, entries in about.get("entry-points", {}).items()
    ]
    (folder / info / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")
    if link:
        return Wheel(name, version, "", requires)
    write_record(folder, info)
    return Wheel(name, version, hashlib.sha256((folder / info / "RECORD").read_bytes()).hexdigest(), requires)


def _read(project: Path) -> dict[str, Any]:
    path = project / "pyproject.toml"
    try:
        about: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    except FileNotFoundError:
        raise NotFoundError(f"no such file: {path}", "a project has one; or install a wheel") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise PybuildError(f"cannot read the project: {path}: {error}") from error
    for key in ("name", "version"):
        if not isinstance(about.get(key), str) or "\n" in about[key] or "/" in about[key]:
            raise PybuildError(
                f"the project has no {key} that could be used as it is: {path}", "build and install a wheel"
            )
    return about


_FILES = {
    "pyproject.toml": """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "pybuild-{name}"
version = "0.1.0"
description = "Says hello: change me"
requires-python = ">=3.11"
dependencies = ["pybuild>={version},<{next}"]

[project.optional-dependencies]
test = ["pytest>=8"]

[project.entry-points."pybuild.commands"]
{name} = "{package}:{function}"

[tool.hatch.build.targets.wheel]
packages = ["src/{package}"]

[tool.pytest.ini_options]
testpaths = ["tests"]
addopts = "-p pybuild.testing"
""",
    "src/{package}/__init__.py": '''\
"""`pybuild {name}`"""

from typing import Annotated

from pybuild.plugin import Argument, Option, write_line


def {function}(
    name: Annotated[str, Argument(help="Whom to greet.", metavar="[NAME]")] = "world",
    loud: Annotated[bool, Option("--loud", help="Louder.")] = False,
) -> None:
    """Say hello."""
    write_line(f"hello {{name}}{{'!' if loud else ''}}")
''',
    "src/{package}/py.typed": "",
    "tests/test_{package}.py": """\
from pybuild.testing import Program, check_imports


def test_it_greets(pybuild_cli: Program) -> None:
    assert pybuild_cli("{name}").out == "hello world\\n"
    assert pybuild_cli("{name}", "you", "--loud").out == "hello you!\\n"


def test_it_is_a_command_of_the_program(pybuild: Program) -> None:
    assert "{name}" in pybuild("--help").out


def test_it_starts_quickly_and_uses_the_public_interface_only() -> None:
    check_imports("{package}")
""",
    "README.md": """\
# pybuild-{name}

A command for [pybuild](https://pypi.org/project/pybuild/): `pybuild {name}`.

```sh
pybuild plugin install --link .    # use it from here
pybuild plugin test .              # run its tests
```
""",
    ".github/workflows/test.yml": """\
on: [push, pull_request]
jobs:
  test:
    runs-on: ubuntu-latest
    strategy:
      matrix:
        python: ["3.11", "3.13"]
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: ${{{{ matrix.python }}}}
      - run: pip install -e '.[test]'
      - run: pytest
""",
    ".gitignore": "__pycache__/\n*.egg-info/\n/dist/\n",
}


def make(name: str, directory: Path, taken: Collection[str] = ()) -> list[Path]:
    """Write a complete project of a command `name` into a new directory; return its files.

    Raises UsageError for a name that no command can have, such as those in `taken`, ConflictError when there is
    something already.
    """
    from pybuild import __version__

    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UsageError(f"a name is of small letters, digits and dashes, not: {name}")
    if name in taken:
        raise UsageError(f"a built-in command has this name: {name}", "no plugin of this name could be installed")
    if directory.exists() and any(directory.iterdir()):
        raise ConflictError(f"there is something already in: {directory}")
    function = name.replace("-", "_")
    major = int(__version__.partition(".")[0])
    values = {
        "name": name,
        "package": f"pybuild_{function}",
        "function": f"{function}_" if keyword.iskeyword(function) or function in ("name", "loud") else function,
        "version": __version__,
        "next": str(major + 1),
    }
    made = []
    for path, text in _FILES.items():
        place = directory / path.format(**values)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text.format(**values), encoding="utf-8")
        made.append(place)
    return made


def pytest_environment(project: Path) -> dict[str, str]:
    """Return the environment in which a project's tests find its packages."""
    paths = [str(project / "src"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
