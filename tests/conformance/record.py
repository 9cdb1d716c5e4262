#!/usr/bin/env python3
"""Builds cases with BuildKit and writes what comes out to `expected/`: `python tests/conformance/record.py [NAME...]`.

A NAME is that of a topic, `TOPIC/CASE` or a part of it; without one all cases are built. Wanted: a dockerd whose
BuildKit is asked (its socket as DOCKER_HOST), docker's own command line (another one as PYBUILD_DOCKER), a static
busybox, and whoever may use that socket. No network is used. Read the difference before you commit it.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "cli")]

from conformance import box, contexts  # noqa: E402
from conformance.cases import BUILDKIT, Case, Expectation, cases, record  # noqa: E402
from conformance.outcome import describe  # noqa: E402
from support.images import Image, read_docker  # noqa: E402

DOCKER = os.environ.get("PYBUILD_DOCKER", "docker")
_FRONTEND = re.compile(r"^(?:failed to solve with frontend \S+: |failed to solve: |error: )+")
_NAMES = re.compile(r"\b[a-z0-9]{25}\b|/var/lib/docker/\S+|/srv/\S+")


def docker(*args: str) -> "subprocess.CompletedProcess[str]":
    """Run docker with BuildKit."""
    return subprocess.run(
        [DOCKER, *args], env={**os.environ, "DOCKER_BUILDKIT": "1"}, capture_output=True, text=True, check=False
    )


def saved(name: str, work: Path) -> Image:
    """Return an image of the daemon."""
    archive = work / "image.tar"
    done = docker("save", name, "-o", str(archive))
    if done.returncode:
        raise SystemExit(done.stderr)
    [image] = read_docker(archive)
    return image


def build(case: Case, base: Image, work: Path) -> Expectation:
    """Return what BuildKit makes of a case."""
    place = work / "context"
    place.mkdir()
    contexts.lay_out(case.context, place)
    for name, text in case.before.items():
        done = _build(text, place, ["-t", name], work)
        if done.returncode:
            raise SystemExit(f"{case.id}: {name} cannot be built: {done.stderr}")
    flags = ["-t", "conformance-result"]
    flags += [f"--build-arg={name}={value}" for name, value in case.args.items()]
    flags += [f"--label={name}={value}" for name, value in case.labels.items()]
    flags += [f"--target={case.target}"] if case.target else []
    done = _build(case.dockerfile, place, flags, work, case.file)
    if done.returncode:
        return Expectation(BUILDKIT, error=_message(done.stderr))
    image = saved("conformance-result", work)
    docker("rmi", "conformance-result")
    return Expectation(BUILDKIT, tuple(describe(image, base)))


def _build(
    text: str, place: Path, flags: list[str], work: Path, file: str = "Dockerfile"
) -> "subprocess.CompletedProcess[str]":
    # Outside of the context, and beside it what is said of that file alone
    dockerfile = work / file
    dockerfile.write_text(text)
    return docker("build", "--network=none", "--progress=plain", *flags, "-f", str(dockerfile), str(place))


def _message(told: str) -> str:
    """Return the last line without what differs from one build to the next."""
    last = told.strip().splitlines()[-1]
    return _NAMES.sub("...", _FRONTEND.sub("", last))


def main(wanted: list[str]) -> None:
    """Record the cases wanted."""
    with tempfile.TemporaryDirectory() as directory:
        done = docker("import", str(box.write(Path(directory, "box.tar"))), box.NAME)
        if done.returncode:
            raise SystemExit(done.stderr)
        base = saved(box.NAME, Path(directory))
    for case in cases():
        if case.expect or (wanted and not any(part in case.id for part in wanted)):
            continue
        with tempfile.TemporaryDirectory() as directory:
            expected = build(case, base, Path(directory))
        print(f"{case.id}: {expected.error or f'{len(expected.lines)} lines'}")
        if bool(expected.error) != bool(case.error) and not case.differs:
            print("  the case says otherwise")
        record(case, expected)


if __name__ == "__main__":
    main(sys.argv[1:])
