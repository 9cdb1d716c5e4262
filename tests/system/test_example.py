"""The README's example makes what it says."""

import shlex
import subprocess
from pathlib import Path

import pytest

from support.images import read_oci
from support.program import COMMAND, Pybuild

pytestmark = pytest.mark.userns

EXAMPLE = Path(__file__).parents[1] / "example"


def test_the_example_builds_a_web_site(pybuild: Pybuild, tmp_path: Path) -> None:
    # In place of the virtual environment that it would make and fill from the network.
    program = tmp_path / "venv" / "bin" / "pybuild"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
    program.chmod(0o755)
    env = {**pybuild.env, "PYBUILD_EXAMPLE_VENV": str(tmp_path / "venv")}
    env.setdefault("PYBUILD_INLINE", "0")
    done = subprocess.run([EXAMPLE / "run"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "example-site" in done.stdout
    assert "user www, command" in done.stdout
    page = (tmp_path / "example-out" / "www" / "index.html").read_text()
    assert "<h1>A web site from nothing</h1>" in page
    assert '<a href="layers.html">layers</a>' in page
    [image] = read_oci(tmp_path / "example-out" / "site.oci.tar")
    tree = image.tree()
    assert tree["srv/www/index.html"].text == page
    assert (tree["srv/www/index.html"].uid, tree["usr/local/bin/serve"].mode) == (33, 0o755)
    assert "work" not in tree
