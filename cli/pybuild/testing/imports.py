"""That a plugin is imported quickly, and uses what plugins may."""

import subprocess
import sys

QUICK_SECONDS = 0.05
"""A plugin's module is to be imported within that time."""


def check_imports(module: str) -> None:
    """Fail when importing a plugin's module takes long, or when it uses more of pybuild than plugins may."""
    code = f"""
import sys, time
class Watch:
    def find_spec(self, name, path=None, target=None):
        at = sys._getframe(1)
        while at.f_code.co_filename.startswith("<frozen importlib"):
            at = at.f_back
        user = at.f_globals.get("__name__", "")
        if name.startswith("pybuild.") and not user.startswith("pybuild.") and user != "pybuild":
            print("uses", name, user)
sys.meta_path.insert(0, Watch())
import pybuild.plugin
begun = time.process_time()
import {module}
print("took", time.process_time() - begun)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    allowed = ("pybuild.plugin", "pybuild.testing")
    beyond = [
        f"{user} uses {name}"
        for kind, name, user in (line for line in lines if line[0] == "uses")
        if user.partition(".")[0] == module.partition(".")[0] and name not in allowed
    ]
    assert not beyond, f"only pybuild.plugin is for plugins: {', '.join(beyond)}"
    took = next(float(line[1]) for line in lines if line[0] == "took")
    assert took < QUICK_SECONDS, (
        f"importing {module} takes {took * 1000:.0f} ms: import what is heavy inside of functions"
    )
