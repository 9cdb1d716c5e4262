"""What a build that fetches nothing does without: importing it would take longer than a cached build."""

import subprocess
import sys


def test_nothing_of_the_network_is_imported() -> None:
    code = "import sys; import pybuild.engine.build; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    assert "pybuild.engine.remotes" in loaded
    heavy = {"urllib3", "ssl", "http.client", "email", "socketserver"}
    own = {"pybuild.remote.http", "pybuild.remote.git", "pybuild.engine.repositories", "pybuild.dockerfile.remotes"}
    assert not (heavy | own) & loaded
