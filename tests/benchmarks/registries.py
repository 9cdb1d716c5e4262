"""Compare pushes and pulls with those of others: `python tests/benchmarks/registries.py [--size MIB] [--rounds N]`.

One layer of that size, half of which a compressor can save, goes to docker's registry on loopback and comes back.
Printed are medians of wall seconds and the most memory, in MB, that each tool took above what it takes to tell its
version. Needs docker-registry; skopeo and buildah are compared with where they are there. Run it as an ordinary user
on a machine that does nothing else.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tarfile
import tempfile
from collections import defaultdict
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.tools import Buildah, Pybuild, Timing, measure
from support import registry
from support.program import remove_tree

PUSH, AGAIN, PULL = PHASES = ("push", "push again", "pull")
BOUND = 150.0
"""Most memory above idle, in MB, that a transfer of ours may take."""

_HALF = bytes(value & 0x0F for value in range(256))


class _Ours:
    """Ours, in one process: a daemon's memory is not that of one transfer."""

    name = "pybuild inline"

    def __init__(self, work: Path) -> None:
        self.tool = Pybuild(work, inline=True)
        self.name = self.tool.name

    def idle(self) -> Timing:
        return measure([*self.tool.command, "version"], self.tool.env)

    def take(self, archive: Path, name: str) -> None:
        measure([*self.tool.command, "load", "-i", str(archive)], self.tool.env)
        measure([*self.tool.command, "tag", "bench:1", name], self.tool.env)
        measure([*self.tool.command, "rmi", "bench:1"], self.tool.env)

    def do(self, phase: str, name: str) -> Timing:
        return measure([*self.tool.command, "pull" if phase == PULL else "push", "-q", name], self.tool.env)

    def forget(self, name: str) -> None:
        measure([*self.tool.command, "rmi", name], self.tool.env)
        measure([*self.tool.command, "prune", "-f", "--all"], self.tool.env)

    def close(self) -> None:
        remove_tree(self.tool.store)


class _Skopeo:
    """skopeo, between the registry and an OCI archive or layout; it keeps no form of a layer that it made."""

    name = "skopeo"

    def __init__(self, work: Path) -> None:
        self.home = work / "sk"
        self.home.mkdir()
        self.env = {**os.environ, "HOME": str(self.home), "TMPDIR": str(self.home)}
        policy = self.home / "policy.json"
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self.command = ["skopeo", "--policy", str(policy), "copy", "-q"]

    def idle(self) -> Timing:
        return measure(["skopeo", "--version"], self.env)

    def take(self, archive: Path, name: str) -> None:
        self.archive = archive

    def do(self, phase: str, name: str) -> Timing:
        if phase == PULL:
            target = f"oci:{self.home / 'pulled'}:1"
            return measure([*self.command, "--src-tls-verify=false", f"docker://{name}", target], self.env)
        source = f"oci-archive:{self.archive}"
        return measure([*self.command, "--dest-tls-verify=false", source, f"docker://{name}"], self.env)

    def forget(self, name: str) -> None:
        shutil.rmtree(self.home / "pulled", ignore_errors=True)

    def close(self) -> None:
        shutil.rmtree(self.home)


class _Buildah:
    """buildah without root."""

    def __init__(self, work: Path) -> None:
        self.tool = Buildah(work)
        self.name = self.tool.name
        self.options = [*self.tool.policy, "--tls-verify=false", "-q"]

    def idle(self) -> Timing:
        return measure(["buildah", "--version"], self.tool.env)

    def take(self, archive: Path, name: str) -> None:
        measure([*self.tool.command, "pull", *self.tool.policy, "-q", f"oci-archive:{archive}"], self.tool.env)
        measure([*self.tool.command, "tag", "docker.io/library/bench:1", name], self.tool.env)

    def do(self, phase: str, name: str) -> Timing:
        return measure([*self.tool.command, "pull" if phase == PULL else "push", *self.options, name], self.tool.env)

    def forget(self, name: str) -> None:
        measure([*self.tool.command, "rmi", "--all", "--force"], self.tool.env)

    def close(self) -> None:
        self.tool.close()


Tool = _Ours | _Skopeo | _Buildah
Results = dict[tuple[str, str], list[Timing]]


def make_archive(work: Path, mebibytes: int) -> Path:
    """Write an OCI archive, layers not compressed, of one image `bench:1` with one file of that size."""
    file, rootfs, archive = work / "file", work / "rootfs.tar", work / "image.tar"
    with file.open("wb") as out:
        for _ in range(mebibytes):
            out.write(os.urandom(1 << 20).translate(_HALF))
    with tarfile.open(rootfs, "w") as tar:
        tar.add(file, "file")
    file.unlink()
    ours = Pybuild(work, inline=True)
    measure([*ours.command, "import", str(rootfs), "bench:1"], ours.env)
    rootfs.unlink()
    measure([*ours.command, "save", "--format=oci", "-o", str(archive), "bench:1"], ours.env)
    remove_tree(ours.store)
    return archive


def measure_all(tools: list[Tool], archive: Path, work: Path, rounds: int) -> Results:
    """Let each tool bring the image away and back, into a registry that is empty each time."""
    results: Results = defaultdict(list)
    for number in range(rounds):
        for tool in tools[number % len(tools) :] + tools[: number % len(tools)]:
            place = work / f"registry-{number}-{tools.index(tool)}"
            with registry.program(place) as served:
                name = served.name("bench:1")
                try:
                    tool.take(archive, name)
                    for phase in (PUSH, AGAIN):
                        results[tool.name, phase].append(tool.do(phase, name))
                    tool.forget(name)
                    results[tool.name, PULL].append(tool.do(PULL, name))
                    tool.forget(name)
                except RuntimeError as error:
                    print(f"{tool.name}: {error}", file=sys.stderr)
            shutil.rmtree(place)
    return results


def main() -> int:
    """Measure, and return 1 when a transfer of ours took more memory than it may."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--size", type=int, default=1024, help="of the layer, in MiB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tools", default="pybuild,skopeo,buildah")
    parser.add_argument("--json", type=Path, help="write all figures there")
    options = parser.parse_args()
    kinds: dict[str, type[Tool]] = {"pybuild": _Ours, "skopeo": _Skopeo, "buildah": _Buildah}
    wanted = [name for name in options.tools.split(",") if name == "pybuild" or shutil.which(name)]
    work = Path(tempfile.mkdtemp(prefix="pbr-"))
    tools: list[Tool] = []
    try:
        archive = make_archive(work, options.size)
        tools += [kinds[name](work) for name in wanted]
        idle = {tool.name: tool.idle().peak for tool in tools}
        results = measure_all(tools, archive, work, options.rounds)
    finally:
        for tool in tools:
            tool.close()
        shutil.rmtree(work, ignore_errors=True)
    worst = 0.0
    for phase in PHASES:
        for tool in tools:
            timings = results[tool.name, phase]
            if not timings:
                print(f"{phase:12} {tool.name:16} –")
                continue
            above = max(timing.peak for timing in timings) - idle[tool.name]
            worst = max(worst, above) if isinstance(tool, _Ours) else worst
            seconds = statistics.median(timing.seconds for timing in timings)
            print(f"{phase:12} {tool.name:16} {seconds:8.2f} s  {above:6.0f} MB above idle")
    if options.json:
        told = {" ".join(key): [[one.seconds, one.peak] for one in timings] for key, timings in results.items()}
        options.json.write_text(json.dumps({"idle": idle, "results": told}, indent=1) + "\n")
    return int(worst > BOUND)


if __name__ == "__main__":
    sys.exit(main())
