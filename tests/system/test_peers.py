"""Other tools read what we write and agree on it; we load what they save."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import processes
from support.images import Image, Node, read_docker, read_oci
from support.program import Pybuild, remove_tree

pytestmark = [pytest.mark.userns, pytest.mark.multiid, pytest.mark.peers]

TEXT = """\
FROM base
ENV A=1
RUN mkdir -p /d/sub && echo 1 > /d/one && ln /d/one /d/hard && ln -s one /d/soft
RUN chown -R 33:50 /d && chmod 4755 /d/one
COPY --chown=www:staff file /copied/
RUN rm /d/hard && echo 2 > /d/two && rm -r /d/sub && mkdir /d/sub && touch /d/sub/new
LABEL kind="a b"
EXPOSE 80
USER www
WORKDIR /srv/w
CMD ["sh", "-c", "true"]
"""


@pytest.fixture(scope="module")
def written(inline_base: Pybuild) -> Pybuild:
    """A store with `app:1`, which is in two archives beside it."""
    context = inline_base.base / "context"
    context.mkdir()
    (context / "file").write_text("file")
    outputs = [item for kind in ("oci", "docker") for item in ("-o", f"type={kind},dest={inline_base.base}/{kind}.tar")]
    inline_base.build(context, "-t", "app:1", *outputs, dockerfile=TEXT)
    return inline_base


@pytest.fixture
def peer(written: Pybuild) -> Iterator["Peers"]:
    peers = Peers(written, written.base / "oci.tar", written.base / "docker.tar")
    yield peers
    # podman keeps its namespaces by a process that never ends by itself.
    processes.end_all([*processes.find("catatonit", "-P"), *processes.find("podman")])
    remove_tree(peers.home)


class Peers:
    """The other tools, with storage and configuration of their own."""

    def __init__(self, pybuild: Pybuild, oci: Path, docker: Path) -> None:
        self.pybuild, self.oci, self.docker = pybuild, oci, docker
        self.home = pybuild.base / "peers"
        self.home.mkdir()
        self.policy = self.home / "policy.json"
        self.policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        kept = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
        self.env = {**kept, "HOME": str(self.home), "TMPDIR": str(self.home)}
        [self.ours] = read_oci(oci)
        storage = ["--storage-driver", "vfs", "--root", f"{self.home}/root", "--runroot", f"{self.home}/run"]
        self.buildah = ["buildah", *storage]
        self.podman = ["podman", *storage]
        self.skopeo = ["skopeo", "--policy", str(self.policy)]

    def __call__(self, *command: str) -> str:
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def same_tree(self, root: Path) -> None:
        """Compare an unpacked tree, seen with this user's ids mapped, with what the layers say."""
        script = (
            "import json,os,stat,sys\n"
            "found = {}\n"
            "for top, dirs, files in os.walk(sys.argv[1]):\n"
            "    for name in dirs + files:\n"
            "        path = os.path.join(top, name)\n"
            "        s = os.lstat(path)\n"
            "        found[os.path.relpath(path, sys.argv[1])] = [stat.S_IMODE(s.st_mode), s.st_uid, s.st_gid]\n"
            "print(json.dumps(found))\n"
        )
        inside = [] if os.geteuid() == 0 else ["unshare", "-r", "--map-auto"]
        found = json.loads(self(*inside, "/usr/bin/python3", "-c", script, str(root)))
        wanted = self.ours.tree()
        missing = {path for path in wanted if path and path not in found}
        assert not missing
        for path in ("d/one", "d/two", "d/sub/new", "copied/file", "d", "tmp", "root", "bin/busybox", "srv/w"):
            node = wanted[path]
            assert found[path] == [node.mode, node.uid, node.gid], path
        assert "d/hard" not in found


def test_skopeo_reads_both_archives(peer: Peers) -> None:
    for source in (f"oci-archive:{peer.oci}", f"docker-archive:{peer.docker}"):
        config = json.loads(peer(*peer.skopeo, "inspect", "--config", source))
        assert config["config"]["Env"] == peer.ours.run["Env"]
        assert config["rootfs"]["diff_ids"] == peer.ours.diff_ids
        assert config["config"]["Labels"] == {"kind": "a b"}
        told = json.loads(peer(*peer.skopeo, "inspect", source))
        assert len(told["Layers"]) == len(peer.ours.layers)


def test_skopeo_converts_and_we_load_it(peer: Peers, context: Path) -> None:
    converted = peer.home / "converted.tar"
    peer(*peer.skopeo, "copy", f"oci-archive:{peer.oci}", f"docker-archive:{converted}:peer/skopeo:1")
    peer.pybuild("load", "-i", converted)
    assert "peer/skopeo:1" in peer.pybuild.names()
    peer(*peer.skopeo, "copy", f"docker-archive:{peer.docker}", f"oci:{peer.home}/layout:peer/layout:1")
    peer.pybuild("load", "-i", peer.home / "layout")
    assert "peer/layout:1" in peer.pybuild.names()
    for name in ("peer/skopeo:1", "peer/layout:1"):
        [image] = peer.pybuild.json("inspect", name)
        assert image["RootFS"]["Layers"] == peer.ours.diff_ids
        assert (
            peer.pybuild.image(context, dockerfile=f"FROM {name}\nUSER root\nRUN cat /d/one > /x\n").read("x") == "1\n"
        )


def test_umoci_unpacks_it_with_the_owners(peer: Peers) -> None:
    peer(*peer.skopeo, "copy", f"oci-archive:{peer.oci}", f"oci:{peer.home}/layout:tag")
    inside = [] if os.geteuid() == 0 else ["unshare", "-r", "--map-auto"]
    peer(*inside, "umoci", "unpack", "--image", f"{peer.home}/layout:tag", f"{peer.home}/bundle")
    peer.same_tree(peer.home / "bundle" / "rootfs")
    run = json.loads((peer.home / "bundle" / "config.json").read_text())["process"]
    assert (run["args"], run["cwd"]) == (["sh", "-c", "true"], "/srv/w")
    assert (run["user"]["uid"], run["user"]["gid"]) == (33, 33)


@pytest.mark.parametrize("archive", ["oci", "docker"])
def test_buildah_reads_it_and_we_load_what_it_pushes(peer: Peers, context: Path, archive: str) -> None:
    policy = ["--signature-policy", str(peer.policy)]
    source = f"oci-archive:{peer.oci}" if archive == "oci" else f"docker-archive:{peer.docker}"
    name = peer(*peer.buildah, "pull", *policy, "-q", source).strip()
    told = json.loads(peer(*peer.buildah, "inspect", "--type", "image", name))
    assert told["OCIv1"]["rootfs"]["diff_ids"] == peer.ours.diff_ids
    assert told["OCIv1"]["config"]["User"] == "www"
    assert told["FromImageID"] == peer.ours.config_digest[7:] or archive == "oci"
    pushed = peer.home / "pushed.tar"
    peer(*peer.buildah, "push", *policy, "-q", name, f"{archive}-archive:{pushed}:peer/buildah:1")
    [theirs] = (read_oci if archive == "oci" else read_docker)(pushed)
    assert contents(theirs) == contents(peer.ours)
    peer.pybuild("load", "-i", pushed)
    [image] = peer.pybuild.json("inspect", theirs.config_digest)
    assert image["RootFS"]["Layers"] == theirs.diff_ids


def test_what_buildah_builds_is_a_base_for_us(peer: Peers, context: Path) -> None:
    policy = ["--signature-policy", str(peer.policy)]
    (context / "Dockerfile").write_text(f"FROM docker-archive:{peer.docker}\nUSER root\nRUN rm /d/one && echo b > /b\n")
    options = ["--isolation", "chroot", "--network", "host", "-q", "-t", "theirs"]
    peer(*peer.buildah, "build", *policy, *options, str(context))
    peer(*peer.buildah, "push", *policy, "-q", "theirs", f"oci-archive:{peer.home}/theirs.tar:theirs:1")
    peer.pybuild("load", "-i", peer.home / "theirs.tar")
    image = peer.pybuild.image(context, dockerfile="FROM theirs:1\nRUN cat /b /d/two > /both; ls /d > /ls\n")
    assert image.read("both") == "b\n2\n"
    assert image.read("ls").split() == ["soft", "sub", "two"]


def test_podman_loads_and_saves(peer: Peers) -> None:
    policy = ["--signature-policy", str(peer.policy)]
    peer(*peer.podman, "load", *policy, "-q", "-i", str(peer.docker))
    [told] = json.loads(peer(*peer.podman, "image", "inspect", "app:1"))
    assert told["RootFS"]["Layers"] == peer.ours.diff_ids
    assert told["Config"]["WorkingDir"] == "/srv/w"
    saved = peer.home / "podman.tar"
    peer(*peer.podman, "save", "-q", "--format", "oci-archive", "-o", str(saved), "app:1")
    [theirs] = read_oci(saved)
    assert contents(theirs) == contents(peer.ours)
    peer.pybuild("load", "-i", saved)


def contents(image: Image) -> dict[str, tuple[str, int, int, int, str, str]]:
    """Return what counts of every path."""

    def facts(node: Node) -> tuple[str, int, int, int, str, str]:
        return (node.type, node.mode if node.type != "symlink" else 0, node.uid, node.gid, node.link, node.sha256)

    return {path: facts(node) for path, node in image.tree().items() if path}
