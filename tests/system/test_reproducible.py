"""The same inputs give the same image, whoever builds it, how and where."""

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from support import busybox, program
from support.program import COMMAND, Pybuild, remove_tree

pytestmark = pytest.mark.userns

DATED = {"SOURCE_DATE_EPOCH": "1000000000"}
ONE_ID = {"PYBUILD_ID_MODE": "single"}
REWRITTEN = "rewrite-timestamp=true"
TEXT = """\
FROM scratch AS made
ADD base.tar /
WORKDIR /made/here
COPY --chmod=u=rwX,go=rX tree /tree
RUN id > id; echo one > a; ln a b; ln -s a c; mkdir -p d/e; chmod 1777 d; chmod 2711 d/e; touch -d @77 a; mkfifo pipe
RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t echo two > /srv/f; rm -r /tree/sub; mkdir /tree/sub
FROM made
ADD owned.tar /owned/
COPY --from=made /made /again
USER www
ARG SOURCE_DATE_EPOCH
RUN echo $SOURCE_DATE_EPOCH > /tmp/mine; umask; env | sort
ENTRYPOINT ["/bin/sh"]
"""


@pytest.fixture
def inputs(context: Path) -> Path:
    busybox.write_rootfs(context / "base.tar")
    for name in ("tree/x", "tree/sub/y", "tree/run"):
        (context / name).parent.mkdir(exist_ok=True)
        (context / name).write_text(name)
    (context / "tree/run").chmod(0o700)
    with tarfile.open(context / "owned.tar", "w") as archive:
        for name, uid in (("root", 0), ("www", 33)):
            member = tarfile.TarInfo(name)
            member.uid = member.gid = uid
            archive.addfile(member, io.BytesIO())
    (context / "Dockerfile").write_text(TEXT)
    return context


def build(pybuild: Pybuild, context: Path, env: dict[str, str]) -> tuple[str, str]:
    """Return the image's id and the digest of the whole archive."""
    out = pybuild.base / "out.tar"
    told = pybuild.build(context, "-o", f"type=oci,dest={out},{REWRITTEN}", env={**DATED, **env})
    return str(told.events[-1]["image_id"]), hashlib.sha256(out.read_bytes()).hexdigest()


@pytest.mark.slow
def test_doors_stores_and_ways_to_map_ids_make_no_difference(inputs: Path) -> None:
    found = {}
    for door, env in (("inline", {}), ("daemon", {}), ("inline", ONE_ID), ("daemon", ONE_ID)):
        with program.world(door) as pybuild:
            found[door, *env] = build(pybuild, inputs, env)
    assert len(set(found.values())) == 1, found


@pytest.mark.slow
def test_nor_does_the_user(inputs: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    found = set()
    for uid in (0, 12345, 23456):
        base = Path(tempfile.mkdtemp(prefix="pb-"))
        base.chmod(0o755)
        try:
            mine = shutil.copytree(inputs, base / "context")
            for path in (base, mine, *mine.rglob("*")):
                os.chown(path, uid, uid)
            places = {"HOME": str(base), "PYBUILD_STORE": f"{base}/s", "PYBUILD_RUNTIME_DIR": f"{base}/r"}
            env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(program.CLI), "PYBUILD_INLINE": "1", **places, **DATED}
            command = [*COMMAND, "build", "-q", "-o", f"type=oci,dest={base}/out,{REWRITTEN}"]
            told = subprocess.run(
                [*command, str(mine)], env=env, user=uid, group=uid, extra_groups=[], capture_output=True, text=True
            )
            assert told.returncode == 0, told.stderr
            found.add((told.stdout.strip(), hashlib.sha256((base / "out").read_bytes()).hexdigest()))
        finally:
            remove_tree(base)
    assert len(found) == 1
