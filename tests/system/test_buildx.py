"""The plugins buildx and compose of Docker's command line build with our daemon as they do with BuildKit."""

import base64
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import host, program, registry
from support.program import Pybuild
from support.registry import digest

pytestmark = [pytest.mark.userns, pytest.mark.buildx]

DOCKERFILE = """\
# syntax=docker/dockerfile:1
FROM base AS build
ARG WORD=none
RUN echo $WORD > /word && echo told && echo wrong >&2
COPY src /src
RUN --mount=type=secret,id=s tr a-z A-Z < /run/secrets/s > /secret && cat /src/one
FROM base
COPY --from=build /word /secret /
COPY a.txt /
"""

Docker = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(pybuild: Pybuild) -> dict[str, str]:
    address = pybuild("daemon", "start").text.strip()
    plugins = pybuild.home / "cli-plugins"
    plugins.mkdir(exist_ok=True)
    for name in ("docker-buildx", "docker-compose"):
        found = host.plugin(name)
        assert found is not None
        if not (plugins / name).is_symlink():
            (plugins / name).symlink_to(found)
    return {
        **{
            name: value
            for name, value in pybuild.env.items()
            if not name.startswith(("BUILDX_", "BUILDKIT_", "COMPOSE_"))
        },
        "DOCKER_HOST": f"unix://{address}",
        "DOCKER_CONFIG": str(pybuild.home),
        "BUILDKIT_PROGRESS": "plain",
    }


@pytest.fixture(scope="module")
def served(_adopted: None) -> Iterator[Pybuild]:
    with program.world("daemon") as pybuild:
        pybuild.add_base()
        yield pybuild


@pytest.fixture
def docker(served: Pybuild) -> Docker:
    env = environment(served)

    def run(
        *args: str | Path, status: int = 0, cwd: Path | None = None, stdin: bytes = b""
    ) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            ["docker", *map(str, args)],
            env={**env, **_experimental()},
            input=stdin,
            capture_output=True,
            timeout=120,
            cwd=cwd,
        )
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        assert done.returncode == status, f"{done.args} -> {done.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    return run


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    (directory / "src").mkdir(parents=True)
    (directory / "Dockerfile").write_text(DOCKERFILE)
    (directory / ".dockerignore").write_text("**/*.md\n")
    (directory / "src/one").write_text("one\n")
    (directory / "src/big").write_bytes(os.urandom(400_000))
    (directory / "src/left.md").write_text("out")
    (directory / "a.txt").write_text("a")
    (directory / "unused").write_bytes(os.urandom(400_000))
    return directory


def _experimental() -> dict[str, str]:
    return {name: os.environ[name] for name in ("BUILDX_EXPERIMENTAL",) if name in os.environ}


def transferred(told: str) -> list[str]:
    """Return how much of the context came, as buildx shows it."""
    number = next((line.split()[0] for line in told.splitlines() if line.endswith("load build context")), "none")
    return [line.split()[3] for line in told.splitlines() if line.startswith(f"{number} transferring")]


def test_a_build_by_the_docker_driver(docker: Docker, context: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush")
    ids, metadata = tmp_path / "id", tmp_path / "metadata"
    arguments = ("--build-arg", "WORD=hello", "--label", "l=1", "--secret", f"id=s,src={tmp_path / 'secret'}")
    told = docker(
        "build", *arguments, "-t", "app:1", "-t", "app:2", "--iidfile", ids, "--metadata-file", metadata, context
    )
    assert "[build 2/4] RUN echo $WORD > /word" in told.stderr
    assert " told\n" in told.stderr
    assert " wrong\n" in told.stderr
    assert transferred(told.stderr)[-1:] == ["400.00kB"], told.stderr
    [found] = json.loads(docker("inspect", "app:1").stdout)
    assert found["Id"] == ids.read_text()
    assert {*found["RepoTags"]} == {"app:1", "app:2"}
    assert found["Config"]["Labels"] == {"l": "1"}
    known = json.loads(metadata.read_text())
    assert known["containerimage.config.digest"] == found["Id"]
    assert known["image.name"] == "docker.io/library/app:1,docker.io/library/app:2"

    # A second time nothing comes, and then only what changed
    told = docker("build", *arguments, "-t", "app:1", context)
    assert told.stderr.count("CACHED") == 7
    assert transferred(told.stderr) == ["done"]
    (context / "src/one").write_text("another\n")
    (context / "unused").write_text("changed")
    told = docker("build", *arguments, "-t", "app:1", context)
    assert transferred(told.stderr)[-1:] == ["8B"], told.stderr
    assert " another\n" in told.stderr

    out = tmp_path / "out"
    docker("build", *arguments, "-o", out, context)
    assert ((out / "word").read_text(), (out / "secret").read_text()) == ("hello\n", "HUSH")
    assert os.access(out / "bin/busybox", os.X_OK)
    docker("build", *arguments, "-o", f"type=tar,dest={tmp_path / 'out.tar'}", "--target=build", context)
    with tarfile.open(tmp_path / "out.tar") as archive:
        assert {"src/one", "src/big", "word"} <= {*archive.getnames()}
        assert "src/left.md" not in archive.getnames()


def test_contexts_and_files_from_elsewhere(docker: Docker, context: Path, tmp_path: Path) -> None:
    docker("build", "-t", "stdin:1", "-", stdin=b"FROM base\nRUN echo only a file\n")
    docker("build", "-t", "stdin:2", "-f", "-", context, stdin=b"FROM base\nCOPY a.txt /b\n")
    archive = tmp_path / "context.tar"
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(context, ".")
    told = docker("build", "-t", "stdin:3", "--target=build", "-", stdin=archive.read_bytes(), status=1)
    assert "secret is required" in told.stderr or "/run/secrets/s" in told.stderr
    # Neither a tar nor a Dockerfile, and longer than what is told of a file
    assert docker("build", "-", stdin=b"FROM base\n" + b"\1x\n" * 200_000, status=1).stderr
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("named\n")
    (other / "Dockerfile.x").write_text("FROM base\nCOPY --from=named file /\nCOPY . /all\nRUN cat /file && ls /all\n")
    (other / "Dockerfile.x.dockerignore").write_text("src\n")
    told = docker("build", "-f", other / "Dockerfile.x", "--build-context", f"named={other}", context)
    assert " named\n" in told.stderr
    assert " unused\n" in told.stderr
    assert " src\n" not in told.stderr


def test_what_went_wrong_is_shown_with_its_place(docker: Docker, context: Path) -> None:
    def failed(dockerfile: str, *args: str) -> str:
        (context / "Dockerfile").write_text(dockerfile)
        return docker("build", *args, context, status=1).stderr

    told = failed("FROM base\nRUN echo hi && \\\n  exit 7\n")
    assert 'failed to solve: process "echo hi && exit 7" did not complete successfully: exit code: 7' in told
    assert "2 | >>> RUN echo hi && \\\n   3 | >>>   exit 7" in told
    told = failed("FROM base\nCOPY nope /\n")
    assert "Dockerfile:2\n" in told
    assert "not found: nope" in told
    assert "unknown instruction: FRM (did you mean FROM?)" in failed("FRM base\n")
    assert "target stage could not be found: none" in failed("FROM base\n", "--target=none")
    assert "open nofile: no such file or directory" in failed("FROM base\n", "-f", str(context / "nofile"))


def test_a_build_that_is_interrupted_ends_its_steps(served: Pybuild, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM base\nRUN echo begun && sleep 1000\n")
    process = subprocess.Popen(
        ["docker", "build", context],
        env=environment(served),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process:
        for line in process.stderr:
            if line.rstrip().endswith(" begun"):
                break
        process.send_signal(signal.SIGINT)
        process.stderr.read()
    assert process.returncode != 0
    # The daemon counts it no more when the last process of the step is gone
    assert served("daemon", "stop", timeout=60).status == 0


def test_the_remote_driver(docker: Docker, served: Pybuild, context: Path, tmp_path: Path) -> None:
    address = environment(served)["DOCKER_HOST"]
    docker("buildx", "create", "--name", "far", "--driver", "remote", address)
    try:
        assert "Status:           running" in docker("buildx", "inspect", "far").stdout
        (tmp_path / "secret").write_text("hush")
        arguments = ("--builder=far", "--secret", f"id=s,src={tmp_path / 'secret'}", context)
        out = tmp_path / "out.tar"
        docker("buildx", "build", "-o", f"type=docker,dest={out}", "-t", "far:1", *arguments)
        with tarfile.open(out) as archive:
            manifest = archive.extractfile("manifest.json")
            assert manifest is not None
            assert json.load(manifest)[0]["RepoTags"] == ["far:1"]
        docker("buildx", "build", "-o", f"type=oci,dest={out}", *arguments)
        with tarfile.open(out) as archive:
            assert "index.json" in archive.getnames()
        assert "far:2" not in served.names()
        docker("buildx", "build", "--load", "-t", "far:2", *arguments)
        assert "far:2" in served.names()
        docker("buildx", "build", "-o", "type=image,name=far:3", *arguments)
        assert "far:3" in served.names()
        assert "Total:" in docker("buildx", "du", "--builder=far").stdout
        assert "Total:" in docker("buildx", "prune", "--force", "--builder=far").stdout
        assert "far:3" in served.names()
    finally:
        docker("buildx", "rm", "far")


def test_agents_of_the_client(docker: Docker, context: Path, tmp_path: Path) -> None:
    if not shutil.which("ssh-agent"):
        pytest.skip("ssh-agent is not installed")
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    (context / "Dockerfile").write_text(
        # Ask for the keys there are: a length, and the number of the request
        "FROM base\nRUN --mount=type=ssh,id=mine printf '\\000\\000\\000\\001\\013' |"
        " timeout 5 nc local:$SSH_AUTH_SOCK | strings | grep -c ssh-ed25519; test -S $SSH_AUTH_SOCK && echo a socket\n"
    )
    told = docker("build", "--ssh", f"mine={key}", context)
    assert " a socket\n" in told.stderr
    (context / "Dockerfile").write_text("FROM base\nRUN --mount=type=ssh,required echo never\n")
    assert "ssh agent is required" in docker("build", context, status=1).stderr


def test_compose_and_bake_build_several(docker: Docker, served: Pybuild, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM base AS first\nARG X\nRUN echo $X > /x\nFROM first\nCOPY a.txt /\n")
    (context / "compose.yaml").write_text(
        "services:\n"
        "  one: {build: {context: ., args: {X: '1'}}, image: 'composed:one'}\n"
        "  two: {build: {context: ., target: first}, image: 'composed:two'}\n"
    )
    docker("compose", "build", cwd=context)
    (context / "docker-bake.json").write_text(
        json.dumps(
            {
                "group": {"default": {"targets": ["a", "b"]}},
                "target": {"a": {"tags": ["baked:a"]}, "b": {"tags": ["baked:b"], "args": {"X": "9"}}},
            }
        )
    )
    docker("buildx", "bake", "-f", "docker-bake.json", cwd=context)
    assert {"composed:one", "composed:two", "baked:a", "baked:b"} <= served.names()


def test_targets_that_begin_from_one_another(docker: Docker, served: Pybuild, context: Path) -> None:
    targets = {
        "default": {
            "contexts": {"below": "target:below"},
            "dockerfile-inline": "FROM below\nRUN cat /x\n",
            "tags": ["linked:1"],
        },
        "below": {"dockerfile-inline": "FROM base\nRUN echo from below > /x\n"},
    }
    (context / "docker-bake.json").write_text(json.dumps({"target": targets}))
    told = docker("buildx", "bake", "-f", "docker-bake.json", cwd=context)
    assert " from below\n" in told.stderr
    assert "linked:1" in served.names()


@pytest.fixture
def far(docker: Docker, served: Pybuild) -> Iterator[str]:
    """The option for a builder of the remote driver, which can do more."""
    docker("buildx", "create", "--name", "far", "--driver", "remote", environment(served)["DOCKER_HOST"])
    yield "--builder=far"
    docker("buildx", "rm", "far")


def test_several_platforms(docker: Docker, served: Pybuild, context: Path, far: str, tmp_path: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nARG TARGETARCH\nCOPY a.txt /$TARGETARCH\n")
    out = tmp_path / "out"
    docker("buildx", "build", far, "--platform=linux/amd64,linux/arm64", "-o", out, context)
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == {
        "linux_amd64/amd64",
        "linux_arm64/arm64",
    }
    docker("buildx", "build", far, "--platform=linux/amd64,linux/arm64", "-o", "type=image,name=several:1", context)
    assert "several:1" in served.names()
    several = (far, "--platform=linux/amd64,linux/arm64", "--metadata-file", str(tmp_path / "metadata"))
    docker("buildx", "build", *several, "-o", "type=image,name=far:4", context)
    [shown] = served.json("inspect", "far:4")
    known = json.loads((tmp_path / "metadata").read_text())
    assert (known["containerimage.digest"], len(shown["Manifests"])) == (shown["Id"], 2)
    assert "containerimage.config.digest" not in known
    with registry.fake() as remote:
        docker("buildx", "build", *several, "--push", "-t", remote.name("app:1"), context)
        kind, data = remote.contents.documents["app", "1"]
    told = json.loads((tmp_path / "metadata").read_text())["containerimage.descriptor"]
    assert (told["mediaType"], told["digest"], told["size"]) == (kind, digest(data), len(data))


def test_results_and_caches_go_to_a_registry_with_the_logins_of_the_client(
    docker: Docker, served: Pybuild, context: Path, far: str
) -> None:
    with registry.fake() as remote:
        remote.contents.challenge = 'Basic realm="r"'
        remote.contents.accepted = {"Basic " + base64.b64encode(b"someone:secret").decode()}
        name = f"{remote.address}/app"
        (context / "Dockerfile").write_text("FROM base\nRUN echo $RANDOM > /random\nCOPY a.txt /\n")
        arguments = ("-t", f"{name}:1", "--cache-to", f"type=registry,ref={name}:cache,mode=max", context)
        refused = docker("buildx", "build", far, "--push", *arguments, status=1)
        assert name.partition("/")[0] in refused.stderr
        docker("login", "-u", "someone", "--password-stdin", remote.address, stdin=b"secret")
        metadata = context.parent / "metadata"
        docker("buildx", "build", far, "--push", "--metadata-file", metadata, *arguments)
        pushed = registry.digest(remote.contents.documents["app", "1"][1])
        assert json.loads(metadata.read_text())["containerimage.digest"] == pushed
        assert ("app", "1") in remote.contents.documents
        assert ("app", "cache") in remote.contents.documents
        docker("build", "--push", "-t", f"{name}:2", context)
        assert ("app", "2") in remote.contents.documents
        before = {*remote.contents.documents}
        output = f"type=image,name={name},push-by-digest=true,name-canonical=true,push=true"
        docker("buildx", "build", far, "--label", "l=1", "--output", output, "--metadata-file", metadata, context)
        untagged = json.loads(metadata.read_text())
        assert untagged["image.name"] == name
        assert {*remote.contents.documents} - before == {("app", untagged["containerimage.digest"])}
        refused = docker("buildx", "build", far, "--output", f"{output},name={name}:3", context, status=1)
        assert f"can't push tagged ref {name}:3 by digest" in refused.stderr
        served("prune", "--all", "--force")
        served.add_base()
        told = docker("buildx", "build", far, "--cache-from", f"type=registry,ref={name}:cache", context)
        assert "RUN echo $RANDOM" in told.stderr
        assert told.stderr.count("CACHED") == 3, told.stderr
        for option in ("--cache-from", "--cache-to"):
            status = int(option == "--cache-to")
            told = docker("buildx", "build", far, option, "type=unheard", context, status=status)
            assert f"unknown type of a cache to {'export' if status else 'import'}: unheard" in told.stderr


def test_caches_in_directories_of_the_client(docker: Docker, served: Pybuild, context: Path, far: str) -> None:
    cache = context.parent / "cache"
    (context / "Dockerfile").write_text("FROM base\nRUN echo $RANDOM > /random\nCOPY a.txt /\n")
    docker("buildx", "build", far, "--cache-to", f"type=local,dest={cache},mode=max", context)
    index = json.loads((cache / "index.json").read_text())
    blobs = cache / "blobs/sha256"
    manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_text())
    assert len(manifest["layers"]) == 2
    for blob in blobs.iterdir():
        assert digest(blob.read_bytes()) == f"sha256:{blob.name}"
    served("prune", "--all", "--force")
    served.add_base()
    told = docker("buildx", "build", far, "--cache-from", f"type=local,src={cache}", context)
    assert told.stderr.count("CACHED") == 3, told.stderr
    served("prune", "--all", "--force")
    served.add_base()
    config = blobs / manifest["config"]["digest"][7:]
    config.chmod(0o600)
    config.write_bytes(b"damaged")
    told = docker("buildx", "build", far, "--cache-from", f"type=local,src={cache}", context)
    assert "nothing is taken from the cache: a blob of the cache is not what its name says" in told.stderr
    assert told.stderr.count("CACHED") == 1, told.stderr


@pytest.mark.usefixtures("_adopted")
def test_a_context_that_is_too_large(context: Path) -> None:
    with program.world("daemon") as small:
        small.env["PYBUILD_MAX_CONTEXT_SIZE"] = "300k"
        small.add_base()
        env = environment(small)

        def build(*args: str | Path, stdin: bytes = b"") -> str:
            done = subprocess.run(
                ["docker", "build", *args], env=env, input=stdin, capture_output=True, timeout=120, check=False
            )
            assert done.returncode == 1
            return done.stderr.decode()

        (context / "Dockerfile").write_text("FROM base\nCOPY src /src\n")
        assert "the client's directory has more than 307200 bytes" in build(context)
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w", format=tarfile.GNU_FORMAT) as out:
            out.add(context, ".")
            out.add(context, "again")
        assert "the context holds more than 307200 bytes" in build("-", stdin=archive.getvalue())


def test_questions_about_a_dockerfile(docker: Docker, context: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # For --print, which is --call by now
    monkeypatch.setenv("BUILDX_EXPERIMENTAL", "1")
    (context / "Dockerfile").write_text(
        "# V is a version\nARG V=1\nFROM base AS one\nARG X=0\n"
        "RUN --mount=type=secret,id=s,required echo hi\nFROM one AS two\nMAINTAINER me\n"
    )
    told = docker("buildx", "build", "--print=outline,format=json", "--build-arg=X=5", context).stdout
    outline = json.loads(told)
    assert outline["name"] == "two"
    assert [(arg["name"], arg["value"]) for arg in outline["args"]] == [("V", "1"), ("X", "5")]
    assert outline["args"][0]["description"] == "is a version"
    assert [(secret["name"], secret["required"]) for secret in outline["secrets"]] == [("s", True)]
    listed = json.loads(docker("buildx", "build", "--print=targets,format=json", context).stdout)
    assert [target["name"] for target in listed["targets"]] == ["one", "two"]
    assert "MaintainerDeprecated" in docker("buildx", "build", "--print=lint", context).stdout
    assert "unsupported request" in docker("buildx", "build", "--print=nothing", context, status=1).stderr
