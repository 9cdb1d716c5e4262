"""ADD of git repositories, from git's own server on loopback."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import repositories
from support import web as servers
from support.images import Image
from support.program import Pybuild, Result
from support.repositories import COMMITTED, Repository
from support.web import Answer, Web

pytestmark = [pytest.mark.userns, pytest.mark.git]

ALLOW = "--allow=network.host"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "served"


@pytest.fixture
def repository(root: Path) -> Repository:
    made = Repository(root / "a.git")
    made.commit(README="first", src__main="code", src__deep__x="x")
    return made


@pytest.fixture
def web(root: Path) -> Iterator[Web]:
    with repositories.serve(root) as web:
        yield web


def build(pybuild: Pybuild, context: Path, text: str, *args: str | Path, **options: object) -> Image:
    return pybuild.image(context, ALLOW, *args, dockerfile=text, **options)


def failure(result: Result) -> dict[str, object]:
    found: dict[str, object] = result.events[-1]["failure"]
    return found


def test_branches_tags_commits_and_directories(
    inline: Pybuild, context: Path, web: Web, repository: Repository
) -> None:
    first = repository.git("rev-parse", "HEAD")
    repository.git("tag", "-a", "v1", "-m", "one")
    (repository.path / "run.sh").write_text("#!/bin/sh\n")
    (repository.path / "run.sh").chmod(0o777)
    (repository.path / "link").symlink_to("src/main")
    second = repository.commit(README="second")
    repository.git("checkout", "-q", "-b", "side")
    repository.commit(README="third")
    repository.git("checkout", "-q", "main")
    address = web.url("/a.git")
    text = f"""\
FROM scratch
ADD {address} /head/
ADD {address}#v1 /tag/
ADD {address}#refs/heads/side /branch/
ADD {address}#{first} /commit
ADD {address}#side:src /sub/
ADD {address}?tag=v1&subdir=src/deep&checksum={first[:9]} /query/
ADD --checksum={second} --chown=3:4 {address}#main /checked/
"""
    image = build(inline, context, text)
    tree = image.tree()
    assert tree["head/README"].text == "second"
    assert (tree["head/README"].mode, tree["head/run.sh"].mode, tree["head/src"].mode) == (0o644, 0o755, 0o755)
    assert (tree["head/README"].mtime, tree["head/README"].uid) == (COMMITTED, 0)
    assert tree["head/link"].link == "src/main"
    assert tree["tag/README"].text == tree["commit/README"].text == "first"
    assert tree["branch/README"].text == "third"
    assert tree["sub/main"].text == "code"
    assert "sub/README" not in tree
    assert tree["query/x"].text == "x"
    assert (tree["checked/README"].uid, tree["checked/README"].gid) == (3, 4)
    assert not [path for path in tree if ".git" in path.split("/")]
    assert image.history[0]["created_by"] == f"ADD {address} /head/ # buildkit"


def test_a_commit_that_is_known_is_not_fetched_again(
    daemon: Pybuild, context: Path, web: Web, repository: Repository
) -> None:
    text = f"FROM scratch\nADD {web.url('/a.git')}#main /a/\n"
    assert list(daemon.build(context, ALLOW, dockerfile=text).steps().values()) == [False]
    assert any("upload-pack" in path for path in web.paths())
    web.asked.clear()
    assert list(daemon.build(context, ALLOW, dockerfile=text).steps().values()) == [True]
    assert "/a.git/HEAD" not in web.paths()
    assert len(web.asked) <= 2
    # Named in full it is not even asked for
    commit = repository.git("rev-parse", "HEAD")
    web.asked.clear()
    pinned = daemon.build(context, ALLOW, dockerfile=text.replace("#main", f"#{commit}"))
    assert (list(pinned.steps().values()), web.asked) == ([True], [])
    repository.commit(README="next")
    assert build(daemon, context, text).read("a/README") == "next"
    kept = [row for row in daemon("df", "--caches").text.splitlines() if "git http://" in row]
    assert len(kept) == 1


@pytest.mark.slow
def test_the_git_directory_is_kept_when_asked(
    inline: Pybuild, context: Path, web: Web, repository: Repository, tmp_path: Path
) -> None:
    repository.git("tag", "v1")
    text = f"FROM scratch\nADD --keep-git-dir=true {web.url('/a.git')}#v1 /\n"
    out = tmp_path / "out"
    inline.build(context, ALLOW, "-o", f"type=local,dest={out}", dockerfile=text)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(out), "-c", f"safe.directory={out}", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=repositories.ENVIRONMENT).stdout

    assert git("status", "--porcelain") == ""
    assert git("describe", "--tags").strip() == "v1"
    assert git("config", "remote.origin.url").strip() == web.url("/a.git")
    query = f"FROM scratch\nADD {web.url('/a.git?keep-git-dir=1')} /\n"
    assert ".git/HEAD" in build(inline, context, query).tree()
    assert ".git" not in build(inline, context, query.replace("ADD ", "ADD --keep-git-dir=false ")).tree()


@pytest.mark.parametrize(
    ("fragment", "flags", "message"),
    [
        ("#absent", "", "no such branch, tag or commit"),
        pytest.param("#" + "0" * 40, "", "no such commit", marks=pytest.mark.slow),
        pytest.param("#main:absent", "", "no such directory", marks=pytest.mark.slow),
        pytest.param("#main:README", "", "no such directory", marks=pytest.mark.slow),
        pytest.param("#main:../../etc", "", "no such directory", marks=pytest.mark.slow),
        pytest.param("#main:.git", "", "no such directory", marks=pytest.mark.slow),
        pytest.param("#main:out", "", "no such directory", marks=pytest.mark.slow),
        ("#main:up", "", "no such directory"),
        pytest.param("#main:metadata", "", "no such directory", marks=pytest.mark.slow),
        ("#--upload-pack=touch canary", "", "not a branch"),
        pytest.param("#-c", "", "not a branch", marks=pytest.mark.slow),
        ("#main", "--checksum=" + "0" * 40, "another commit"),
        pytest.param("#main", "--checksum=sha256:" + "0" * 64, "not the id of a commit", marks=pytest.mark.slow),
        pytest.param("?what=1", "", "unknown option", marks=pytest.mark.slow),
    ],
)
def test_what_is_not_there_or_cannot_be_meant(
    inline: Pybuild, context: Path, web: Web, repository: Repository, fragment: str, flags: str, message: str
) -> None:
    outside = repository.path.parent / "outside"
    outside.mkdir()
    (repository.path / "out").symlink_to(outside)
    (repository.path / "up").symlink_to("../../../../../../../../etc")
    (repository.path / "metadata").symlink_to(".git")
    repository.commit()
    address = web.url("/a.git") + fragment
    arguments = f'["{address}", "/"]' if " " in address else f"{address} /"
    text = f"FROM scratch\nADD {flags} {arguments}\n"
    found = failure(inline.build(context, ALLOW, dockerfile=text, status=1))
    assert message in str(found["message"])
    assert found["line"] == 2
    assert not (context / "canary").exists()


@pytest.mark.slow
@pytest.mark.parametrize("address", ["ext::sh -c touch% canary", "file:///etc/x.git", "-oProxyCommand=x.git", "fd::3"])
def test_transports_that_run_programs_are_local_names_to_add(inline: Pybuild, context: Path, address: str) -> None:
    result = inline.build(
        context, ALLOW, dockerfile=f'FROM scratch\nADD -- ["{address}", "/"]\n', status=1, cwd=context
    )
    assert "not found" in str(failure(result)["message"])
    assert not (context / "canary").exists()


def test_submodules_come_along_unless_not_wanted(
    inline: Pybuild, context: Path, web: Web, repository: Repository, root: Path
) -> None:
    inner = Repository(root / "inner.git")
    inner.commit(inner="inner")
    middle = Repository(root / "middle.git")
    middle.commit(middle="middle")
    middle.git("submodule", "--quiet", "add", "../inner.git", "in/ner")
    middle.commit()
    repository.git("submodule", "--quiet", "add", "../middle.git", "lib")
    # As it is written down by people who use the network
    (repository.path / ".gitmodules").write_text(f'[submodule "lib"]\n\tpath = lib\n\turl = {web.url("/middle.git")}\n')
    repository.commit()
    (middle.path / ".gitmodules").write_text('[submodule "in/ner"]\n\tpath = in/ner\n\turl = ../inner.git\n')
    # What the host of the repository is told, its submodules there need too
    web.answers["*"] = Answer(authorization="Basic abc")
    given = ("--secret", "id=GIT_AUTH_HEADER,env=HEADER")
    text = f"FROM scratch\nADD {web.url('/a.git')} /\n"
    tree = inline.image(context, ALLOW, *given, dockerfile=text, env={"HEADER": "Basic abc"}).tree()
    del web.answers["*"]
    assert (tree["lib/middle"].text, tree["lib/in/ner/inner"].text) == ("middle", "inner")
    assert not [path for path in tree if ".git" in path.split("/")]
    tree = build(inline, context, f"FROM scratch\nADD {web.url('/a.git?submodules=0')} /\n").tree()
    assert "lib/middle" not in tree


@pytest.mark.parametrize(
    "address",
    [
        "file:///{root}/secret.git",
        "ext::sh -c touch% {root}/canary",
        *(pytest.param(text, marks=pytest.mark.slow) for text in ("/{root}/secret.git", "-u./x", "../../x")),
    ],
)
def test_submodules_come_over_the_network_only(
    inline: Pybuild, context: Path, web: Web, repository: Repository, root: Path, address: str
) -> None:
    secret = Repository(root / "secret.git")
    commit = secret.commit(secret="secret")
    address = address.replace("{root}", str(root))
    listing = f'[submodule "s"]\n\tpath = s\n\turl = {address}\n\tupdate = !touch {root}/canary\n'
    (repository.path / ".gitmodules").write_text(listing)
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},s")
    repository.git("add", ".gitmodules")
    repository.git("commit", "-q", "-m", "evil")
    result = inline.build(context, ALLOW, dockerfile=f"FROM scratch\nADD {web.url('/a.git')} /\n", status=1)
    assert failure(result)["line"] == 2
    assert not (root / "canary").exists()


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1/a.git", "git://localhost/a", "ssh://git@[::1]/a", "git@localhost:a"]
)
def test_repositories_of_this_machine_are_out_of_reach(inline: Pybuild, context: Path, address: str) -> None:
    result = inline.build(context, dockerfile=f"FROM scratch\nADD {address} /\n", status=1)
    assert "may not be reached" in str(failure(result)["message"])


def test_nothing_of_a_repository_or_the_user_is_run(
    inline: Pybuild, context: Path, web: Web, repository: Repository, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    (repository.path / ".gitattributes").write_text("* filter=evil\n*.txt filter=lfs diff=lfs merge=lfs -text\n")
    (repository.path / "hooks").mkdir()
    repository.commit(a__txt="x", hooks__post_checkout=f"#!/bin/sh\ntouch {canary}\n")
    (repository.path / "hooks" / "post_checkout").chmod(0o755)
    hooks = inline.home / "hooks"
    hooks.mkdir()
    for name in ("post-checkout", "reference-transaction"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {canary}\n")
        (hooks / name).chmod(0o755)
    (inline.home / ".gitconfig").write_text(
        f'[core]\n\thooksPath = {hooks}\n[filter "evil"]\n\tsmudge = touch {canary}; cat\n'
        f"[credential]\n\thelper = !touch {canary}\n"
        f'[url "{web.url("/stolen")}"]\n\tinsteadOf = {web.url("/a")}\n'
    )
    # Neither is what a working directory holds, nor what the environment says
    for name in ("git", "ssh", "git-remote-http"):
        (context / name).write_text(f"#!/bin/sh\ntouch {canary}\n")
        (context / name).chmod(0o755)
    env = {
        "PATH": f".:{os.environ['PATH']}",
        "GIT_SSH_COMMAND": f"touch {canary}",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.hooksPath",
        "GIT_CONFIG_VALUE_0": str(hooks),
        "GIT_DIR": "/nonexistent",
    }
    text = f"FROM scratch\nADD {web.url('/a.git')} /\n"
    image = inline.image(context, ALLOW, dockerfile=text, env=env, cwd=context)
    assert image.read("a/txt") == "x"
    assert not canary.exists()


def test_secrets_reach_git_and_nobody_else(
    inline: Pybuild, context: Path, web: Web, repository: Repository, tmp_path: Path
) -> None:
    web.answers["*"] = Answer(authorization="Basic eC1hY2Nlc3MtdG9rZW46aHVzaDEyMzQ=")
    text = f"FROM scratch\nADD {web.url('/a.git')} /\n"
    result = inline.build(context, ALLOW, dockerfile=text, status=1)
    assert "GIT_AUTH_TOKEN" in str(failure(result)["hint"])
    # A program in the place of git sees what git does
    real = subprocess.run(["which", "git"], check=True, capture_output=True, text=True).stdout.strip()
    seen, bin_ = tmp_path / "seen", tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "git").write_text(f'#!/bin/sh\necho "$@" >> {seen}\nenv >> {seen}\nexec {real} "$@"\n')
    (bin_ / "git").chmod(0o755)
    given = ("--secret", "id=GIT_AUTH_TOKEN,env=TOKEN")
    env = {"TOKEN": "hush1234", "PATH": f"{bin_}:{os.environ['PATH']}"}
    inline.build(context, ALLOW, *given, dockerfile=text, env=env)
    assert "fetch" in seen.read_text()
    assert "hush1234" not in seen.read_text()
    assert "eC1hY2Nlc3M" not in seen.read_text()
    kept = [path for path in inline.store.rglob("*") if path.is_file()]
    assert not [path for path in kept if b"hush1234" in path.read_bytes() or b"eC1hY2Nlc3M" in path.read_bytes()]
    # A name with a host wins, and an address may have a password, which is not told either
    text = f"FROM scratch\nADD {web.url('/a.git', host='x-access-token:hush1234@127.0.0.1')}#main /\n"
    image = inline.image(context, ALLOW, dockerfile=text)
    assert "hush" not in image.history[0]["created_by"]
    result = inline.build(context, ALLOW, dockerfile=text.replace("#main", "#gone"), status=1)
    assert "hush1234" not in result.err


@pytest.mark.slow
def test_a_repository_that_moved_is_found_without_its_secret(
    inline: Pybuild, context: Path, web: Web, repository: Repository, root: Path
) -> None:
    with servers.serve() as old:
        query = "service=git-upload-pack"
        old.answers["/old.git/info/refs"] = Answer(
            status=301, headers={"Location": web.url(f"/a.git/info/refs?{query}")}, authorization="Basic abc"
        )
        text = f"FROM scratch\nADD {old.url('/old.git')} /\n"
        env = {"HEADER": "Basic abc"}
        image = inline.image(context, ALLOW, "--secret", "id=GIT_AUTH_HEADER,env=HEADER", dockerfile=text, env=env)
        assert image.read("README") == "first"
        assert {asked.headers.get("Authorization") for asked in old.asked} == {"Basic abc"}
    assert web.asked
    assert {asked.headers.get("Authorization") for asked in web.asked} == {None}


@pytest.mark.slow
def test_over_ssh_with_the_agent_that_was_given(
    inline: Pybuild, context: Path, repository: Repository, tmp_path: Path
) -> None:
    """The program in the place of ssh runs what it is told to run there here."""
    seen, bin_ = tmp_path / "seen", tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "ssh").write_text(
        "#!/bin/sh\n"
        f'echo "$@" >> {seen}\ncat "$2" >> {seen}\n'
        f'for last; do :; done\ncd {repository.path.parent} && exec env -u GIT_ALLOW_PROTOCOL sh -c "$last"\n'
    )
    (bin_ / "ssh").chmod(0o755)
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    env = {"PATH": f"{bin_}:{os.environ['PATH']}"}
    text = "FROM scratch\nADD git@localhost:a.git /\n"
    image = inline.image(context, ALLOW, "--ssh", f"default={key}", dockerfile=text, env=env)
    assert image.read("README") == "first"
    told = seen.read_text()
    assert "git@localhost git-upload-pack 'a.git'" in told
    assert "StrictHostKeyChecking accept-new" in told
    assert "IdentityAgent" in told
    assert "IdentityAgent none" not in told


@pytest.mark.slow
def test_a_submodule_that_moved_is_found(
    inline: Pybuild, context: Path, web: Web, repository: Repository, root: Path
) -> None:
    inner = Repository(root / "inner.git")
    commit = inner.commit(inner="inner")
    with servers.serve() as old:
        target = web.url("/inner.git/info/refs?service=git-upload-pack")
        old.answers["/gone.git/info/refs"] = Answer(status=301, headers={"Location": target})
        (repository.path / ".gitmodules").write_text(f'[submodule "s"]\n\tpath = s\n\turl = {old.url("/gone.git")}\n')
        repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},s")
        repository.git("add", ".gitmodules")
        repository.git("commit", "-q", "-m", "submodule")
        given = ("--secret", "id=GIT_AUTH_HEADER,env=HEADER")
        text = f"FROM scratch\nADD {web.url('/a.git')} /\n"
        image = inline.image(context, ALLOW, *given, dockerfile=text, env={"HEADER": "Basic abc"})
        assert {asked.headers.get("Authorization") for asked in old.asked} == {None}
    assert image.read("s/inner") == "inner"


@pytest.mark.slow
@pytest.mark.tls
def test_certificates_of_the_user_are_trusted_by_git(
    inline: Pybuild, context: Path, repository: Repository, tmp_path: Path
) -> None:
    pem = servers.certificate(tmp_path)
    with repositories.serve(repository.path.parent, pem) as web:
        text = f"FROM scratch\nADD {web.url('/a.git')} /\n"
        found = failure(inline.build(context, ALLOW, dockerfile=text, status=1))
        assert "--ca-bundle" in str(found["hint"])
        assert build(inline, context, text, "--ca-bundle", servers.authority(tmp_path)).read("README") == "first"


def test_without_git_there_is_a_clear_error(inline: Pybuild, context: Path, tmp_path: Path) -> None:
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    text = "FROM scratch\nADD https://127.0.0.1/a.git /\n"
    result = inline.build(context, ALLOW, dockerfile=text, status=1, env={"PATH": str(bin_)})
    assert "git is not installed" in str(failure(result)["message"])
