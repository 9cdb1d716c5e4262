"""Docker's own command line and its library for Python find in our socket what they know."""

import base64
import gzip
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import busybox, program, registry
from support.program import Pybuild
from support.registry import Registry

pytestmark = [pytest.mark.userns, pytest.mark.docker]

DOCKERFILE = """\
FROM base
ARG WORD=none
RUN echo $WORD > /word && echo told && echo wrong >&2
COPY file /file
LABEL of=test
CMD ["sh"]
"""


def clients() -> list[Any]:
    """Return the command lines that are here: there may be one of Debian's and one of Docker's."""
    found = [shutil.which("docker", path=name) for name in ("/usr/local/bin", "/usr/bin")]
    first, *others = [*dict.fromkeys(os.path.realpath(path) for path in found if path)] or ["docker"]
    return [first, *(pytest.param(other, marks=pytest.mark.slow) for other in others)]


Docker = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def served(_adopted: None) -> Iterator[Pybuild]:
    with program.world("daemon") as pybuild:
        pybuild.add_base()
        yield pybuild


def environment(pybuild: Pybuild) -> dict[str, str]:
    address = pybuild("daemon", "start").text.strip()
    return {
        **pybuild.env,
        "DOCKER_HOST": f"unix://{address}",
        "DOCKER_BUILDKIT": "0",
        "DOCKER_CONFIG": str(pybuild.home),
    }


@pytest.fixture(params=clients())
def docker(request: pytest.FixtureRequest, served: Pybuild) -> Docker:
    """One of the command lines; it ends with `status`."""
    env = environment(served)

    def run(*args: str | Path, status: int = 0, stdin: bytes | None = None) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [request.param, *map(str, args)], env=env, input=stdin or b"", capture_output=True, timeout=120
        )
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode()
        assert done.returncode == status, f"{done.args} -> {done.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    return run


@pytest.fixture
def library(served: Pybuild) -> Iterator[Any]:
    import docker as package

    client = package.DockerClient(base_url=environment(served)["DOCKER_HOST"], version="auto")
    yield client
    client.close()


def make_context(directory: Path, dockerfile: str = DOCKERFILE) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "Dockerfile").write_text(dockerfile)
    (directory / "file").write_text("content")
    (directory / "left").write_text("out")
    (directory / ".dockerignore").write_text("left\n")
    return directory


def test_docker_builds_and_knows_what_it_built(docker: Docker, tmp_path: Path) -> None:
    context = make_context(tmp_path / "c")
    idfile = tmp_path / "id"
    arguments = ("--build-arg", "WORD=hello", "--label", "l=1", "-t", "app:1", "-t", "app:2", "--network=host")
    told = docker("build", "--no-cache", "--rm=false", "--iidfile", idfile, *arguments, context).stdout
    assert "Step 3/3 : COPY file /file\n" in told
    assert "told\n" in told
    assert "\x1b[91mwrong\n\x1b[0m" in told
    assert "Successfully tagged app:1\nSuccessfully tagged app:2\n" in told
    image = idfile.read_text()
    assert f"Successfully built {image[7:19]}" in told
    assert "Using cache" in docker("build", *arguments, context).stdout
    assert docker("build", "-q", *arguments, context).stdout == f"{image}\n"
    [found] = json.loads(docker("inspect", "app:1").stdout)
    assert found["Id"] == image
    assert found["Config"]["Labels"] == {"of": "test", "l": "1"}
    assert {"app:1", "app:2"} == {*found["RepoTags"]}
    listed = docker(
        "images", "--no-trunc", "--filter", "label=l=1", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"
    ).stdout
    assert {*listed.splitlines()} == {f"app:1 {image}", f"app:2 {image}"}
    assert "COPY file /file" in docker("history", "--no-trunc", image).stdout
    assert "must be forced" in docker("rmi", image, status=1).stderr
    assert docker("rmi", "app:1").stdout == "Untagged: app:1\n"
    assert docker("rmi", "app:2").stdout.endswith(f"Deleted: {image}\n")
    assert "No such image: app:2" in docker("image", "inspect", "app:2", status=1).stderr


def test_docker_is_told_what_went_wrong(docker: Docker, tmp_path: Path) -> None:
    failed = docker("build", make_context(tmp_path / "a", "FROM base\nRUN exit 7\n"), status=7)
    assert "returned a non-zero code: 7" in failed.stderr
    failed = docker("build", make_context(tmp_path / "b", "FROM base\nCOPY nope /\n"), status=1)
    assert "nope" in failed.stderr
    failed = docker("build", make_context(tmp_path / "c", "FROM base\nFRM x\n"), status=1)
    assert "FRM" in failed.stderr
    assert "{" not in failed.stderr
    failed = docker("build", "--target=none", make_context(tmp_path / "d"), status=1)
    assert "none" in failed.stderr
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        archive.add(make_context(tmp_path / "e"), ".")
    failed = docker("build", "-", stdin=out.getvalue()[:-40], status=1)
    assert failed.stderr.strip()
    assert "{" not in failed.stderr
    failed = docker("load", stdin=b"no archive" * 100, status=1)
    assert failed.stderr.strip()
    assert "{" not in failed.stderr


def test_docker_saves_loads_and_imports(docker: Docker, tmp_path: Path) -> None:
    docker("tag", "base", "kept:1")
    image = docker("image", "inspect", "-f", "{{.Id}}", "kept:1").stdout
    docker("save", "-o", tmp_path / "kept.tar", "kept:1")
    docker("rmi", "kept:1")
    assert docker("load", "-i", tmp_path / "kept.tar").stdout == "Loaded image: kept:1\n"
    assert docker("image", "inspect", "-f", "{{.Id}}", "kept:1").stdout == image
    busybox.write_rootfs(tmp_path / "rootfs.tar")
    made = docker("import", "-c", 'CMD ["sh"]', "-m", "why", tmp_path / "rootfs.tar", "made:1").stdout.strip()
    assert docker("image", "inspect", "-f", "{{.Id}} {{.Config.Cmd}}", "made:1").stdout == f"{made} [sh]\n"
    docker("rmi", "kept:1", "made:1")


def test_docker_prints_a_sentence_for_what_is_not_here(docker: Docker) -> None:
    for words in (["run", "base"], ["create", "base"], ["volume", "create", "v"], ["network", "create", "n"]):
        told = docker(*words, status=125 if words[0] == "run" else 1).stderr
        assert "pybuild builds images and does not run containers" in told
        assert "{" not in told
    for words in (["ps", "-a"], ["volume", "ls"], ["network", "ls"], ["plugin", "ls"]):
        assert len(docker(*words).stdout.splitlines()) == 1
    for words in (["logs", "x"], ["exec", "x", "y"], ["rm", "x"], ["stop", "x"], ["inspect", "--type=container", "x"]):
        assert "No such container: x" in docker(*words, status=1).stderr
    assert "No such object: nope" in docker("inspect", "nope", status=1).stderr
    assert "no node of a swarm" in docker("node", "ls", status=1).stderr
    assert "hub.docker.com" in docker("search", "x", status=1).stderr


def test_docker_asks_about_the_system(docker: Docker) -> None:
    assert "pybuild" in docker("version").stdout
    assert json.loads(docker("info", "-f", "{{json .}}").stdout)["SecurityOptions"] == ["name=rootless"]
    assert "Images" in docker("system", "df").stdout
    assert "base" in docker("system", "df", "-v").stdout
    docker("tag", "base", "loose:1")
    assert "Total reclaimed space" in docker("system", "prune", "-f").stdout
    docker("rmi", "loose:1")


def test_docker_hears_of_events(docker: Docker) -> None:
    docker("tag", "base", "heard:1")
    docker("rmi", "heard:1")
    shown = docker("events", "--since=10m", "--until=-1s", "--filter=image=heard", "--format={{.Action}}").stdout
    assert shown.splitlines()[-2:] == ["tag", "untag"]
    shown = docker("events", "--since=10m", "--until=-1s", "--filter=event=untag", "--format={{json .}}").stdout
    assert json.loads(shown.splitlines()[-1])["Actor"]["Attributes"]["name"] == "heard:1"
    assert docker("events", "--since=10m", "--until=0s", "--filter=type=container").stdout == ""
    assert "invalid filter" in docker("events", "--filter=sort=x", status=1).stderr


def test_the_library_builds_and_knows_what_it_built(library: Any, tmp_path: Path) -> None:
    import docker as package

    image, log = library.images.build(
        path=str(make_context(tmp_path / "c")), tag="lib:1", buildargs={"WORD": "x"}, rm=True
    )
    assert "Successfully tagged lib:1\n" in {line.get("stream") for line in log}
    assert image.tags == ["lib:1"]
    assert image.labels == {"of": "test"}
    assert image.history()[0]["CreatedBy"] == 'CMD ["sh"]'
    assert image.tag("again", "2")
    assert library.images.get("again:2").id == image.id
    assert {tag for found in library.images.list(filters={"label": ["of=test"]}) for tag in found.tags} == {
        "lib:1",
        "again:2",
    }
    data = b"".join(image.save(named=True))
    library.images.remove("again:2")
    library.images.remove("lib:1")
    with pytest.raises(package.errors.ImageNotFound):
        library.images.get("lib:1")
    [loaded] = library.images.load(data)
    assert loaded.id == image.id
    library.images.remove(loaded.id, force=True)


def test_the_library_gets_errors_as_it_knows_them(library: Any, tmp_path: Path) -> None:
    import docker as package

    with pytest.raises(package.errors.BuildError, match="returned a non-zero code: 7"):
        library.images.build(path=str(make_context(tmp_path / "c", "FROM base\nRUN exit 7\n")))
    with pytest.raises(package.errors.APIError, match="does not run containers"):
        library.containers.create("base")
    with pytest.raises(package.errors.APIError, match="target stage could not be found: none") as caught:
        library.images.build(path=str(make_context(tmp_path / "d")), target="none")
    assert caught.value.status_code == 400
    with pytest.raises(package.errors.APIError, match="cannot find the Dockerfile: absent"):
        library.images.build(path=str(tmp_path / "d"), dockerfile="absent")
    with pytest.raises(package.errors.ImageLoadError, match="archive"):
        library.images.load(b"no archive" * 100)
    told = [*library.images.push("localhost:1/absent", "x", stream=True, decode=True)]
    assert told[-1]["error"] == "An image does not exist locally with the tag: localhost:1/absent"
    assert library.containers.list() == library.volumes.list() == library.networks.list() == []
    with pytest.raises(package.errors.NotFound):
        library.containers.get("x")


def test_the_library_hears_of_events_as_they_happen(library: Any) -> None:
    stream = library.events(decode=True, filters={"event": "tag"})
    library.images.get("base").tag("live", "1")
    event = next(iter(stream))
    stream.close()
    assert (event["Action"], event["Actor"]["Attributes"]["name"]) == ("tag", "live:1")
    library.images.remove("live:1")


def test_the_library_sends_contexts_of_all_kinds(library: Any, tmp_path: Path) -> None:
    text = io.BytesIO(b"FROM base\nRUN true\n")
    image, _ = library.images.build(fileobj=text, rm=True, nocache=True, quiet=True)
    assert library.images.get(image.short_id).id == image.id
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz") as archive:
        archive.add(make_context(tmp_path / "c"), ".")
    image, _ = library.images.build(fileobj=io.BytesIO(out.getvalue()), custom_context=True, encoding="xz", target="")
    assert image.labels == {"of": "test"}
    image, _ = library.images.build(
        path=str(tmp_path / "c"), gzip=True, labels={"x": "y"}, extra_hosts={"h": "1.2.3.4"}
    )
    assert image.labels == {"of": "test", "x": "y"}


@pytest.fixture
def remote() -> Iterator[Registry]:
    """A registry in memory that wants a password."""
    with registry.fake() as found:
        found.contents.challenge = 'Basic realm="tests"'
        found.contents.accepted.add("Basic " + base64.b64encode(b"someone:secret").decode())
        yield found


def test_docker_logs_in_pushes_and_pulls(docker: Docker, remote: Registry) -> None:
    name = remote.name("team/app:1")
    docker("tag", "base", name)
    denied = docker("push", name, status=1).stderr
    assert "denied" in denied
    assert f"if it is right, `pybuild login {remote.address}`)" in denied
    wrong = docker("login", "-u", "someone", "--password-stdin", remote.address, stdin=b"wrong", status=1)
    assert "(check user and password; some registries want a token in place of it)" in wrong.stderr
    docker("login", "-u", "someone", "--password-stdin", remote.address, stdin=b"secret")
    pushed = docker("push", name).stdout
    digest = registry.digest(remote.contents.documents["team/app", "1"][1])
    assert f"1: digest: {digest} size: " in pushed
    assert pushed.startswith(f"The push refers to repository [{remote.name('team/app')}]\n")
    layers = json.loads(remote.contents.documents["team/app", "1"][1])["layers"]
    assert len(re.findall(r"^[0-9a-f]{12}: Pushed$", pushed, re.MULTILINE)) == len(layers)
    assert "config" not in pushed
    docker("rmi", name)
    assert f"Digest: {digest}\nStatus: " in docker("pull", name).stdout
    assert docker("pull", "-q", name).stdout == f"{name}\n"
    assert digest in docker("image", "inspect", "-f", "{{.RepoDigests}}", name).stdout
    missing = docker("pull", remote.name("team/none:1"), status=1).stderr
    assert "team/none" in missing
    assert "{" not in missing
    actions = docker("events", "--since=1m", "--until=-1s", "--format={{.Action}} {{.Actor.ID}}").stdout.splitlines()
    assert {f"push {name}", f"pull {name}"} <= {*actions}
    docker("rmi", name)
    docker("logout", remote.address)


def test_docker_lists_the_layers_that_it_pulls(docker: Docker, remote: Registry, tmp_path: Path) -> None:
    remote.contents.challenge = ""
    data = busybox.write_rootfs(tmp_path / "rootfs.tar").read_bytes()
    # Nobody has had this one, whichever client asks
    packed = gzip.compress(data + bytes(10240) + os.urandom(16), 1)
    plain = gzip.decompress(packed)
    remote.contents.image("team/new", "1", [(f"{registry.LAYER}+gzip", packed, registry.digest(plain))])
    told = docker("pull", remote.name("team/new:1")).stdout.splitlines()
    assert told[:2] == [
        f"1: Pulling from {remote.name('team/new')}",
        f"{registry.digest(packed)[7:19]}: Pull complete",
    ]
    docker("rmi", remote.name("team/new:1"))


def test_docker_moves_all_tags(docker: Docker, remote: Registry) -> None:
    remote.contents.challenge = ""
    name = remote.name("team/all")
    for tag in ("1", "2"):
        docker("tag", "base", f"{name}:{tag}")
    docker("push", "-a", name)
    docker("rmi", f"{name}:1", f"{name}:2")
    assert docker("pull", "-a", name).stdout.count("Digest: ") == 2
    docker("rmi", f"{name}:1", f"{name}:2")
    assert "team/nothing" in docker("pull", "-a", remote.name("team/nothing"), status=1).stderr


def test_docker_prunes_the_cache_and_no_image(docker: Docker, tmp_path: Path) -> None:
    context = make_context(tmp_path / "c", f"FROM base\nRUN echo {tmp_path} > /a\n")
    cached = re.compile(r"Step 2/2 : [^\n]*\n ---> Using cache\n")
    image = docker("build", "-q", context).stdout.strip()
    counts = docker("system", "df", "--format={{.Type}} {{.TotalCount}} {{.Size}}").stdout.splitlines()
    assert not [line for line in counts if line.startswith("Build Cache 0 ")]
    assert " regular " in docker("system", "df", "-v").stdout
    # All that is of use may stay
    docker("builder", "prune", "-f", "--keep-storage=1TB")
    assert cached.search(docker("build", context).stdout)
    assert docker("builder", "prune", "-af", "--filter=until=24h").returncode == 0
    assert cached.search(docker("build", context).stdout)
    assert "unknown filter" in docker("builder", "prune", "-f", "--filter=label=x", status=1).stderr
    docker("builder", "prune", "-af")
    assert docker("image", "inspect", "-f", "{{.Id}}", image).stdout.strip() == image
    assert not cached.search(docker("build", context).stdout)


COMPOSE = """\
version: "3.4"
services:
  one:
    build:
      context: ./one
      args: {WORD: composed}
      labels: {made: together}
    image: composed:1
  two:
    build: {context: ., dockerfile: two/Dockerfile, target: wanted}
"""


def lacks_compose() -> str:
    """Return why there is no compose that builds through docker's library: newer ones have BuildKit do it."""
    found = shutil.which("docker-compose")
    if found is None:
        return "docker-compose is not installed"
    done = subprocess.run([found, "version", "--short"], capture_output=True, text=True, timeout=60)
    return "" if done.stdout.startswith("1.") else f"docker-compose is not version 1: {done.stdout.strip()}"


def test_compose_builds(served: Pybuild, library: Any, tmp_path: Path) -> None:
    if lack := lacks_compose():
        pytest.skip(lack)
    make_context(tmp_path / "one")
    make_context(tmp_path / "two", "FROM base AS wanted\nCOPY one/file /\nFROM nothing\n")
    (tmp_path / "docker-compose.yml").write_text(COMPOSE)

    def compose(*words: str, status: int = 0) -> str:
        env = {**environment(served), "COMPOSE_PROJECT_NAME": "proj", "COMPOSE_DOCKER_CLI_BUILD": "0"}
        done = subprocess.run(
            ["docker-compose", *words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    told = compose("build")
    assert "Successfully tagged composed:1" in told
    assert library.images.get("composed:1").labels["made"] == "together"
    assert "proj_two:latest" in library.images.get("proj_two").tags
    assert "Using cache" in compose("build", "one")
    (tmp_path / "one" / "Dockerfile").write_text("FROM base\nRUN exit 7\n")
    assert "returned a non-zero code: 7" in compose("build", "one", status=1)
    told = compose("up", "-d", status=1)
    assert "does not run containers" in told
    library.images.remove("composed:1")
    library.images.remove("proj_two")


def test_the_library_asks_a_registry(library: Any, remote: Registry) -> None:
    import docker as package

    name = remote.name("team/app")
    library.images.get("base").tag(name, "1")
    assert library.login("someone", "secret", registry=remote.address)["Status"] == "Login Succeeded"
    with pytest.raises(package.errors.APIError, match="password"):
        library.login("someone", "wrong", registry=remote.address, reauth=True)
    login = {"username": "someone", "password": "secret"}
    told = [*library.images.push(name, "1", auth_config=login, stream=True, decode=True)]
    digest = registry.digest(remote.contents.documents["team/app", "1"][1])
    assert told[-1]["aux"]["Digest"] == digest
    known = library.images.get_registry_data(f"{name}:1", auth_config=login)
    assert known.id == digest
    assert known.has_platform("linux/amd64")
    assert f"{name}:1" in library.images.pull(name, "1", auth_config=login).tags
    with pytest.raises(package.errors.NotFound):
        library.images.pull(remote.name("team/none"), "1", auth_config=login)
    library.images.remove(f"{name}:1")


def test_what_env_prints_makes_docker_build_here(served: Pybuild) -> None:
    printed = served("env").text
    script = f'{printed}\ndocker image inspect -f "{{{{.RepoTags}}}} $DOCKER_BUILDKIT" base'
    done = subprocess.run(["sh", "-c", script], env=served.env, capture_output=True, text=True, timeout=60)
    assert "base:latest" in done.stdout, done.stderr
    assert done.stdout.endswith(" 0\n")
    assert served("env", "--shell=fish").text.startswith("set -gx DOCKER_HOST unix:///")
    assert served("env", "--unset").text.startswith("unset DOCKER_HOST\nunset DOCKER_BUILDKIT\n")
    assert "known: sh, fish" in served("env", "--shell=csh", status=2).err
