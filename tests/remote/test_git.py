"""Git as it is run for a build, without a build."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from pybuild.errors import CancelledError
from pybuild.remote.addresses import Reach
from pybuild.remote.errors import AddressError, GitError
from pybuild.remote.git import Found, Git, basic, origin_of, without_userinfo
from pybuild.remote.program import Access
from support import repositories
from support.repositories import Repository
from support.web import Answer, Asked, Web

pytestmark = pytest.mark.git


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "served" / "a.git")
    made.commit(README="first")
    return made


@pytest.fixture
def web(repository: Repository) -> Iterator[Web]:
    with repositories.serve(repository.path.parent) as web:
        yield web


@pytest.fixture
def access() -> Access:
    return Access({}, Reach.LOCAL, Reach.LOCAL, {}, "", "", [], 1 << 30, lambda address: "", Event())


@pytest.fixture
def git(tmp_path: Path, access: Access) -> Iterator[Git]:
    home = tmp_path / "home"
    home.mkdir()
    with Git(home, access) as git:
        yield git


def fetched(git: Git, tmp_path: Path, address: str, commit: str) -> Path:
    bare = tmp_path / "bare"
    if not bare.exists():
        git.make(bare)
    lock = os.open(tmp_path, os.O_RDONLY)
    try:
        git.fetch(bare, address, commit, lock)
    finally:
        os.close(lock)
    return bare


def test_branches_win_over_tags_and_tags_are_peeled(git: Git, web: Web, repository: Repository) -> None:
    first = repository.git("rev-parse", "HEAD")
    repository.git("tag", "-a", "same", "-m", "x")
    tag = repository.git("rev-parse", "same")
    second = repository.commit(README="second")
    address = web.url("/a.git")
    assert git.look_up(address, "same") == Found(first, tag, "refs/tags/same")
    repository.git("branch", "same", second)
    assert git.look_up(address, "same") == Found(second, "", "refs/heads/same")
    assert git.look_up(address, "tags/same") == Found(first, tag, "refs/tags/same")
    assert git.look_up(address, "") == Found(second, "", "HEAD")
    with pytest.raises(GitError, match="no such branch"):
        git.look_up(address, "sam")


def test_a_server_that_gives_only_what_has_a_name(git: Git, web: Web, repository: Repository, tmp_path: Path) -> None:
    first = repository.git("rev-parse", "HEAD")
    second = repository.commit(README="second")
    address = web.url("/a.git")
    bare = fetched(git, tmp_path, address, second)
    repository.git("config", "uploadpack.allowAnySHA1InWant", "false")
    # Protocol version 2 would give any commit
    with (tmp_path / "home" / ".gitconfig").open("a") as config:
        config.write("[protocol]\n    version = 0\n")
    assert fetched(git, tmp_path, address, first) == bare
    git.check_out(bare, first, tmp_path / "out", address, keep=False, submodules=True)
    assert (tmp_path / "out" / "README").read_text() == "first"
    with pytest.raises(GitError, match="no such commit"):
        fetched(git, tmp_path, address, "0" * 40)


def test_what_a_killed_git_left_is_no_obstacle(git: Git, web: Web, repository: Repository, tmp_path: Path) -> None:
    bare = fetched(git, tmp_path, web.url("/a.git"), repository.git("rev-parse", "HEAD"))
    (bare / "shallow.lock").touch()
    (bare / "objects" / "pack" / "tmp_pack_abc").write_bytes(b"half")
    fetched(git, tmp_path, web.url("/a.git"), repository.commit(README="next"))
    assert not (bare / "objects" / "pack" / "tmp_pack_abc").exists()


def test_a_repository_over_the_limit(tmp_path: Path, access: Access, web: Web, repository: Repository) -> None:
    (repository.path / "big").write_bytes(os.urandom(300_000))
    # A small pack can hold much, too
    (repository.path / "zeros").write_bytes(bytes(5_000_000))
    commit = repository.commit()
    address = web.url("/a.git")
    with Git(_home(tmp_path, "small"), access._replace(max_size=200_000)) as git:
        with pytest.raises(GitError, match="limit of 200000 bytes"):
            fetched(git, tmp_path, address, commit)
    with Git(_home(tmp_path, "larger"), access._replace(max_size=4_000_000)) as git:
        bare = fetched(git, tmp_path, address, commit)
        with pytest.raises(GitError, match="limit of 4000000 bytes"):
            git.check_out(bare, commit, tmp_path / "out", address, keep=False, submodules=True)


def _home(place: Path, name: str) -> Path:
    (place / name).mkdir()
    return place / name


def test_a_cancelled_build_ends_git_and_its_helpers(
    tmp_path: Path, access: Access, web: Web, repository: Repository
) -> None:
    asked = Event()

    def stall(request: Asked) -> Answer:
        asked.set()
        return Answer(b"0000", status=203, stall=2)

    web.answers["*"] = stall
    home = tmp_path / "home"
    home.mkdir()
    failures: list[BaseException] = []

    def run() -> None:
        with Git(home, access) as git:
            try:
                git.look_up(web.url("/a.git"), "main")
            except BaseException as error:
                failures.append(error)

    thread = Thread(target=run)
    thread.start()
    assert asked.wait(20)
    access.cancel.set()
    thread.join(20)
    assert [type(error) for error in failures] == [CancelledError]
    deadline = time.monotonic() + 10
    while running := [path for path in Path("/proc").glob("[0-9]*/environ") if _mentions(path, str(home))]:
        assert time.monotonic() < deadline, running
        time.sleep(0.02)


def _mentions(path: Path, text: str) -> bool:
    try:
        return text.encode() in path.read_bytes()
    except OSError:
        return False


@pytest.mark.parametrize(
    "address",
    [
        *("ext::sh -c x", "file:///x", "/x", "./x", "fd::3", "-oX@h:y", "ssh://-oX/y", "http://", "https://h:x/y"),
        *("git@h:-x", "h::x", "ftp://h/x", "", "../x", "c"),
        *("http://a\\@b/x", "http://a#@b/x", "http://a?@b/x", "http://h/\\x", "http://h\u00e9/x", "http://h:1:2/x"),
    ],
)
def test_addresses_that_git_must_not_see(git: Git, address: str) -> None:
    with pytest.raises(GitError, match="not the address of a repository"):
        git.allow(address)


def test_near_addresses(tmp_path: Path, access: Access) -> None:
    with Git(tmp_path, access._replace(limit=Reach.PRIVATE, follow=None)) as git:
        for address in (
            "http://127.0.0.1/a",
            "https://localhost/a",
            "git://[::1]/a",
            "ssh://u@127.1/a",
            "u@localhost:a",
        ):
            with pytest.raises(AddressError):
                git.allow(address)


def test_submodules_are_no_way_to_this_machine(
    git: Git, web: Web, repository: Repository, tmp_path: Path, access: Access
) -> None:
    listing = f'[submodule "s"]\n\tpath = s\n\turl = {web.url("/inner.git")}\n'
    (repository.path / ".gitmodules").write_text(listing)
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{repository.git('rev-parse', 'HEAD')},s")
    repository.git("add", ".gitmodules")
    repository.git("commit", "-q", "-m", "submodule")
    commit = repository.git("rev-parse", "HEAD")
    bare = fetched(git, tmp_path, web.url("/a.git"), commit)
    web.asked.clear()
    home = tmp_path / "careful"
    home.mkdir()
    with Git(home, access._replace(limit=Reach.PRIVATE, follow=None)) as careful, pytest.raises(AddressError):
        careful.check_out(bare, commit, tmp_path / "out", "https://public.example/a.git", keep=False, submodules=True)
    assert not web.asked


def test_a_repository_of_the_users_own_leads_no_nearer_than_it_is(
    tmp_path: Path, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pybuild.remote import addresses

    monkeypatch.setattr(addresses, "reach_of", lambda text: Reach.PUBLIC if text == "127.0.0.2" else Reach.LOCAL)
    with Git(tmp_path, access._replace(follow=None)) as git:
        git.allow("http://127.0.0.2/a.git")
        with pytest.raises(AddressError):
            git.allow("http://127.0.0.1/submodule.git")


def test_git_connects_to_the_address_that_was_looked_at(
    git: Git, web: Web, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that means something else the next time it is asked for: here it means nothing at all to git."""
    from pybuild.remote import git as module

    monkeypatch.setattr(module, "resolve", lambda host, port, limit: (Reach.LOCAL, [(2, ("127.0.0.1", port))]))
    address = web.url("/a.git", host="rebinding.invalid")
    assert git.look_up(address, "main").commit == repository.git("rev-parse", "HEAD")


def test_the_proxy_is_the_one_that_was_decided_on(
    tmp_path: Path, access: Access, web: Web, repository: Repository
) -> None:
    """Git has rules of its own, which do not count, and a password is not written down."""

    def answer(asked: Asked) -> Answer:
        if asked.headers.get("Proxy-Authorization") == "Basic bWU6aHVzaDk4NzY=":
            return Answer(status=418)
        return Answer(status=407, headers={"Proxy-Authenticate": "Basic realm=proxy"})

    web.answers["http://repositories.example/a.git/info/refs"] = answer
    proxies = {"HTTP_PROXY": web.url("", host="me:hush9876@127.0.0.1"), "NO_PROXY": ".repositories.example"}
    home = tmp_path / "home"
    home.mkdir()
    with Git(home, access._replace(proxies=proxies, limit=Reach.PUBLIC, follow=None)) as git:
        with pytest.raises(GitError, match="418"):
            git.look_up("http://repositories.example/a.git", "main")
        with pytest.raises(AddressError):
            git.look_up("http://169.254.169.254/a.git", "main")
        kept = b"".join(path.read_bytes() for path in home.iterdir())
    assert b"hush9876" not in kept
    with Git(home, access._replace(proxies={"HTTP_PROXY": "http://127.0.0.1:1"})) as git:
        # Nothing of this machine is asked of a proxy
        assert git.look_up(web.url("/a.git"), "main").commit == repository.git("rev-parse", "HEAD")


def test_over_gits_own_protocol(git: Git, repository: Repository, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    base = repository.path.parent
    daemon = subprocess.Popen(
        [
            *("git", "daemon", "--export-all", "--listen=127.0.0.1", f"--port={port}", "--reuseaddr", "--verbose"),
            *("--log-destination=stderr", f"--base-path={base}", str(base)),
        ],
        env=repositories.ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert daemon.stderr is not None
        assert "Ready" in daemon.stderr.readline()
        address = f"git://127.0.0.1:{port}/a.git"
        commit = git.look_up(address, "main").commit
        bare = fetched(git, tmp_path, address, commit)
        git.check_out(bare, commit, tmp_path / "out", address, keep=False, submodules=True)
    finally:
        daemon.terminate()
        daemon.communicate()
    assert (tmp_path / "out" / "README").read_text() == "first"


def test_the_configuration_of_ssh_is_one_that_ssh_takes(tmp_path: Path, access: Access) -> None:
    home = tmp_path / "with % and blank"
    home.mkdir()
    given = access._replace(agent=f"{home}/agent", known_hosts=[home / "first", home / "second"])
    with Git(home, given):
        told = subprocess.run(
            ["ssh", "-G", "-F", str(home / "ssh_config"), "git@host.example"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
    assert f"identityagent {home}/agent" in told
    assert f"userknownhostsfile {home}/first {home}/second" in told
    assert "stricthostkeychecking accept-new" in told
    assert "batchmode yes" in told


def test_users_and_passwords() -> None:
    address = "https://me:p%40ss@h.example:8443/a.git"
    assert without_userinfo(address) == "https://h.example:8443/a.git"
    assert origin_of(address) == "https://h.example:8443"
    assert basic(address) == "Basic bWU6cEBzcw=="
    assert without_userinfo("ssh://git@h/a") == "ssh://git@h/a"
    assert basic("git@h:a") == ""
