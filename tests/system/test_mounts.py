"""`RUN --mount`, `--network` and `--security` in real builds: what is seen, what is kept, what makes a step new."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support.images import Image, read_oci
from support.program import Pybuild

pytestmark = pytest.mark.userns

ONE_ID = {"PYBUILD_ID_MODE": "single"}
CANARY = "canary-5e5e-canary"

ALL_KINDS = """\
FROM base AS made
RUN mkdir -p /data/sub && echo text > /data/sub/f && chown 5:6 /data/sub/f && ln -s /data /link
FROM base
WORKDIR /w
RUN --mount=target=/src --mount=target=one,source=sub/b \
    { ls /src; cat /src/a one; stat -c %a:%u /src /src/sub/b; readlink /src/link; touch /src/x || echo ro; } > /bind
RUN --mount=target=/src,rw rm /src/a; echo new > /src/new; ls /src > /writable
RUN --mount=target=/src ls /src > /unchanged
RUN --mount=from=made,source=/link,target=/m --mount=from=made,target=/all,rw \
    { cat /m/sub/f; stat -c %u:%g /m/sub/f; echo x > /all/data/y; ls -a /all/data; touch /m/x || echo ro; } > /stage
RUN --mount=type=cache,target=/c,mode=0711,uid=3,gid=4 { stat -c %a:%u:%g /c; echo kept > /c/f; } > /cache1
RUN --mount=type=cache,target=/d,id=/c,mode=0711,uid=3,gid=4,ro { cat /d/f; touch /d/x || echo ro; } > /cache2
RUN --mount=type=cache,target=/e,id=filled,from=made,source=/data/sub { cat /e/f; stat -c %u:%g /e/f; } > /cache3
RUN --mount=type=tmpfs,target=/t,size=64k { ls -A /t; head -c 100000 /dev/zero > /t/f || stat -c %s /t/f; } > /tmpfs
RUN --mount=type=secret,id=key --mount=type=secret,id=key,env=KEY \
    --mount=type=secret,id=key,target=/s/key,mode=0444,uid=7 \
    { stat -c %a:%u /run/secrets/key /s/key; cat /s/key | wc -c; echo ${#KEY}; ls -A /run/secrets; } > /secret; \
    echo "$KEY"; cat /run/secrets/key
RUN --mount=type=secret,id=absent --mount=type=ssh ls -d /run/secrets $SSH_AUTH_SOCK || echo "$SSH_AUTH_SOCK" > /absent
RUN --network=none cat /proc/net/dev > /net; ls /run || true
"""

MADE_BY_COMMANDS = {
    *("w", "bind", "writable", "unchanged", "stage", "cache1", "cache2", "cache3", "tmpfs", "secret", "absent", "net"),
    *("dev", "proc", "sys"),
}


def fill(context: Path) -> None:
    (context / "sub").mkdir()
    (context / "a").write_text("a\n")
    (context / "sub/b").write_text("b\n")
    (context / "sub/b").chmod(0o640)
    (context / "hidden").write_text("hidden\n")
    (context / "link").symlink_to("/etc/shadow")
    (context / ".dockerignore").write_text("hidden\n")
    context.chmod(0o700)


def leaks(root: Path, text: bytes) -> list[Path]:
    """Return the files below `root` that hold `text`; what this user may not read is another one's."""
    paths = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(paths) > 5
    return [path for path in paths if os.access(path, os.R_OK) and text in path.read_bytes()]


def check_all_kinds(image: Image) -> None:
    assert image.read("bind") == "a\nlink\nsub\na\nb\n755:0\n640:0\n/etc/shadow\nro\n"
    assert image.read("writable") == "link\nnew\nsub\n"
    assert image.read("unchanged") == "a\nlink\nsub\n"
    assert image.read("stage") == "text\n5:6\n.\n..\nsub\ny\nro\n"
    assert image.read("cache1") == "711:3:4\n"
    assert image.read("cache2") == "kept\nro\n"
    assert image.read("cache3") == "text\n5:6\n"
    assert image.read("tmpfs") == "65536\n"
    assert image.read("secret") == f"400:0\n444:7\n{len(CANARY) + 1}\n{len(CANARY) + 1}\nkey\n"
    assert image.read("absent") == "/run/buildkit/ssh_agent.0\n"
    assert re.findall(r"^ *(\w+):", image.read("net"), re.MULTILINE) == ["lo"]
    added = {path.partition("/")[0] for layer in image.layers[1:] for path in (node.path for node in layer)}
    assert added <= MADE_BY_COMMANDS, added - MADE_BY_COMMANDS


@pytest.mark.parametrize(
    ("base", "mode"),
    [pytest.param("daemon", {}, id="daemon"), pytest.param("inline", ONE_ID, id="one-id")],
    indirect=["base"],
)
def test_every_kind_of_mount(base: Pybuild, context: Path, tmp_path: Path, mode: dict[str, str]) -> None:
    fill(context)
    secret = tmp_path / "key"
    secret.write_text(f"{CANARY}\n")
    out = tmp_path / "out.tar"
    result = base.build(
        context, "--no-cache", "--secret", f"id=key,src={secret}", "-o", f"type=oci,dest={out}",
        dockerfile=ALL_KINDS, env=mode,
    )  # fmt: skip
    [image] = read_oci(out)
    check_all_kinds(image)
    assert "\\u0000" not in result.err
    assert CANARY not in result.err
    assert "".join(event["text"] for event in result.events if event["event"] == "StepLog").count("****") == 2
    # Nowhere: neither in the layers nor in the index, the logs, or what is left of the mounts
    assert leaks(base.base, CANARY.encode()) == []
    assert CANARY.encode() not in out.read_bytes()
    assert os.listdir(base.store / "tmp") == []


KEYED = """\
FROM base AS part
COPY sub /sub
RUN touch /other
FROM base
RUN --mount=target=/src,source=sub cat /src/b
RUN --mount=from=part,target=/p,source=sub cat /p/b
RUN --mount=type=secret,id=key --mount=type=cache,id=one,target=/c cat /run/secrets/key > /dev/null
"""


def test_a_step_is_new_when_what_it_reads_is(inline_base: Pybuild, context: Path) -> None:
    program = inline_base
    fill(context)

    def redone(text: str = KEYED, key: str = "v1") -> list[str]:
        env = {"KEY": key}
        return program.build(context, "--secret", "id=key,env=KEY", dockerfile=text, env=env).redone()

    assert len(redone()) == 5
    # Neither the value of a secret, nor the id of a cache, nor times, nor files that are not selected or left out
    (context / "a").write_text("other\n")
    (context / "hidden").write_text("other\n")
    os.utime(context / "sub/b", (5, 5))
    assert redone(KEYED.replace("id=one", "id=two"), key="v2") == []
    # A stage that was made anew is looked at for its content
    assert redone(KEYED.replace("touch /other", "touch /another")) == ["RUN touch /another"]
    (context / "sub/b").write_text("changed\n")
    assert len(redone()) == 5


COUNTED = """\
FROM base
RUN --mount=type=cache,target=/c,id=n echo x >> /c/n; wc -l < /c/n > /shared
RUN --mount=type=cache,target=/c,id=n,sharing=locked echo x >> /c/n; wc -l < /c/n > /locked
RUN --mount=type=cache,target=/c,id=n,sharing=private echo x >> /c/n; wc -l < /c/n > /private
RUN --mount=type=cache,target=/c,id=../../../../m echo x >> /c/n; wc -l < /c/n > /up
RUN --mount=type=cache,target=/c,id=/m echo x >> /c/n; wc -l < /c/n > /abs
RUN --mount=type=cache,target=/c,id=n,mode=0700 echo x >> /c/n; wc -l < /c/n > /mode
"""


def test_caches_outlive_builds_until_they_are_pruned(inline_base: Pybuild, context: Path) -> None:
    def counts(*options: str) -> list[int]:
        image = inline_base.image(context, "--no-cache", *options, dockerfile=COUNTED)
        return [int(image.read(name)) for name in ("shared", "locked", "private", "up", "abs", "mode")]

    assert counts() == [1, 2, 3, 1, 1, 1]
    assert counts() == [4, 5, 6, 2, 2, 2]
    assert counts("--build-arg=BUILDKIT_CACHE_MOUNT_NS=a") == [1, 2, 3, 1, 1, 1]
    rows = inline_base("df", "--caches", "--format", "{{.ID}} {{.Target}}").text.splitlines()
    for id in ("n", "../../../../m", "/m", "a/n", "a/../../../../m", "a//m"):
        assert rows.count(f"{id} /c") == (2 if id.endswith("n") else 1), rows
    inline_base("prune", "-f", "--filter", "id=n")
    left = inline_base("df", "--caches", "--format", "{{.ID}}").text.split()
    assert sorted({*left}) == sorted({id for id in (row.split()[0] for row in rows) if id != "n"})
    inline_base("prune", "-f", "--filter", "type=exec.cachemount")
    assert os.listdir(inline_base.store / "caches") == []


TOGETHER = """\
FROM base AS a
RUN --mount=type=cache,target=/c,id=together,sharing={sharing} {script} a
FROM base AS b
RUN --mount=type=cache,target=/c,id=together,sharing={sharing} {script} b
FROM scratch
COPY --from=a /seen /a
COPY --from=b /seen /b
"""


@pytest.mark.slow
def test_sharing_at_the_same_time(inline_base: Pybuild, context: Path) -> None:
    def seen(sharing: str, seconds: str) -> tuple[str, str]:
        # Each leaves its name, waits, and looks who else was there
        script = f"f() {{ touch /c/$1; sleep {seconds}; ls /c > /seen; rm /c/$1; }}; f"
        text = TOGETHER.format(sharing=sharing, script=script)
        image = inline_base.image(context, "--no-cache", dockerfile=text)
        return image.read("a"), image.read("b")

    assert seen("locked", "0.2") == ("a\n", "b\n")
    assert seen("private", "0.3") == ("a\n", "b\n")
    assert "a\nb\n" in seen("shared", "0.6")


EVIL = """\
FROM base AS evil
RUN ln -s {outside} /out && ln -s / /root2 && ln -s ../../../../../../../.. /up && mkdir /d && ln -s {outside}/f /d/f
FROM base
"""

STEAL = (
    "RUN --mount=from=evil,source={source},target={target},rw cat {target}/f {target}/../f {outside}/f;"
    " echo stolen > {target}/f; echo stolen > {target}; ls -la {target}; true\n"
)


@pytest.mark.parametrize(
    "env", [pytest.param({}, id="best"), pytest.param(ONE_ID, id="one-id", marks=pytest.mark.slow)]
)
def test_no_way_out(inline_base: Pybuild, context: Path, tmp_path: Path, env: dict[str, str]) -> None:
    """What links and dots of a stage, the context, a cache or the image lead to is never the host's."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text(CANARY)
    (outside / "f").chmod(0o666)
    (context / "out").symlink_to(outside)
    (context / "up").symlink_to("../outside")
    program, told = inline_base, ""

    def steal(source: str, target: str) -> str:
        return STEAL.format(outside=outside, source=source, target=target)

    evil = EVIL.format(outside=outside)
    found = [("/root2", "/t"), ("/up", "/t"), ("/d", "/t"), ("/", f"{outside}"), ("/d", "/../../../../etc/x")]
    text = evil + "".join(steal(source, target) for source, target in found)
    told += program.build(context, "--no-cache", dockerfile=text, env=env).err
    for source, target in (
        *(("/out", "/t"), ("/d/f", "/t"), (f"../../../../../..{outside}", "/t")),
        *(("/", "/proc/self/root/x"), ("/", "/proc/1/cwd")),
    ):
        told += program.build(context, dockerfile=evil + steal(source, target), env=env, status=1).err
    for source in ("out", "up/f"):
        text = f"FROM base\nRUN --mount=source={source},target=/t,rw cat /t /t/f; echo stolen > /t/f\n"
        result = program.build(context, dockerfile=text, env=env, status=1)
        assert result.events[-1]["failure"]["line"] == 2
        assert "not found" in result.events[-1]["failure"]["message"]
        told += result.err
    # A cache that an earlier RUN has prepared
    text = (
        f"FROM base\nRUN --mount=type=cache,target=/c,id=evil ln -sfn {outside} /c/out; ln -sfn ../../../../.. /c/up\n"
        "RUN --mount=type=cache,target=/c,id=evil,source=../.. ls -la /c; cat /c/f; true\n"
        "RUN --mount=type=cache,target=/c,id=evil,source=up ls -la /c; cat /c/f; true\n"
        "RUN --mount=type=cache,target=/c,id=evil --mount=type=tmpfs,target=/c/out/x ls -la /c/out\n"
    )
    told += program.build(context, "--no-cache", dockerfile=text, env=env).err
    text += f"RUN --mount=type=cache,target=/c,id=evil,source=up{outside} ls -la /c; cat /c/f; echo stolen > /c/f\n"
    told += program.build(context, dockerfile=text, env=env, status=1).err
    assert CANARY not in told
    assert (outside / "f").read_text() == CANARY
    assert os.listdir(outside) == ["f"]


@pytest.mark.parametrize(
    ("line", "options", "told"),
    [
        ("RUN --mount=type=secret,id=k,required true", (), "secret is required and was not given: k"),
        ("RUN --mount=type=ssh,id=k,required true", (), "ssh agent is required and was not given: k"),
        ("RUN --mount=type=secret,id=k,env=K true", ("--secret", "id=k,src={nul}"), "NUL byte"),
        ("RUN --mount=source=nosuch,target=/t true", (), "not found: nosuch"),
    ],
)
def test_what_cannot_be_mounted_is_told(
    inline_base: Pybuild, context: Path, tmp_path: Path, line: str, options: tuple[str, ...], told: str
) -> None:
    (tmp_path / "nul").write_bytes(f"{CANARY}\0".encode())
    options = tuple(option.replace("{nul}", str(tmp_path / "nul")) for option in options)
    result = inline_base.build(context, *options, dockerfile=f"FROM base\n{line}\n", status=1)
    failure = result.events[-1]["failure"]
    assert (failure["line"], told in failure["message"]) == (2, True), failure
    assert CANARY not in result.err


def test_insecure_is_for_those_who_allow_it(inline_base: Pybuild, context: Path) -> None:
    text = "FROM base\nRUN --security=insecure mkdir /m && mount -t tmpfs t /m && touch /m/x && ls /m > /out\n"
    result = inline_base.build(context, dockerfile=text, status=1)
    assert "--allow security.insecure" in result.events[-1]["failure"]["hint"]
    # The step after it is confined as ever
    text += "RUN mkdir /n && ! mount -t tmpfs t /n\n"
    assert inline_base.image(context, "--allow=security.insecure", dockerfile=text).read("out") == "x\n"


@contextmanager
def running_agent(key: Path, place: Path) -> Iterator[dict[str, str]]:
    """Give the environment of somebody whose OpenSSH agent has a key."""
    socket = place / "S"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.PIPE)
    try:
        assert agent.stdout is not None
        # It says so once it listens
        assert b"SSH_AUTH_SOCK" in agent.stdout.readline()
        env = {"SSH_AUTH_SOCK": str(socket)}
        subprocess.run(["ssh-add", "-q", str(key)], env={**os.environ, **env}, check=True)
        yield env
        listed = subprocess.run(
            ["ssh-add", "-l"], env={**os.environ, **env}, capture_output=True, text=True, check=True
        )
        assert "inside (ED25519)" in listed.stdout
    finally:
        agent.kill()
        agent.communicate()


@pytest.mark.skipif(not shutil.which("ssh-add"), reason="OpenSSH's client is not installed")
@pytest.mark.parametrize(("base", "given"), [("daemon", "key"), ("daemon", "agent")], indirect=["base"])
def test_an_agent_is_used_from_inside(base: Pybuild, context: Path, tmp_path: Path, given: str) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "inside", "-f", str(key)], check=True)
    for program in ("/usr/bin/ssh-add", "/usr/bin/ssh-keygen"):
        libraries = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for path in (program, *re.findall(r"(/\S+)", libraries)):
            shutil.copy(path, context / os.path.basename(path))
    shutil.copy(key.with_suffix(".pub"), context / "key.pub")
    loader = next(path.name for path in context.iterdir() if path.name.startswith("ld-"))
    text = f"""FROM base
RUN --mount=type=ssh,id=k,required --mount=target=/x <<-END
	run() {{ name=$1; shift; /x/{loader} --library-path /x /x/$name "$@"; }}
	echo signed > /text
	run ssh-add -l > /out
	run ssh-add -D || true
	run ssh-keygen -Y sign -f /x/key.pub -n file /text
END
"""
    with ExitStack() as stack:
        if given == "agent":
            env, value = stack.enter_context(running_agent(key, tmp_path)), "default"
            text = text.replace("id=k,", "")
        else:
            env, value = {}, f"k={key}"
        image = base.image(context, "--no-cache", "--ssh", value, dockerfile=text, env=env)
    assert "inside (ED25519)" in image.read("out")
    (tmp_path / "signature").write_text(image.read("text.sig"))
    (tmp_path / "signers").write_text(f"me {key.with_suffix('.pub').read_text()}")
    checked = ["ssh-keygen", "-Y", "verify", "-n", "file", "-I", "me", "-f", "signers", "-s", "signature"]
    subprocess.run(checked, input=b"signed\n", cwd=tmp_path, check=True, capture_output=True)
    assert not leaks(base.store, b"OPENSSH PRIVATE KEY")


@pytest.mark.slow
def test_a_killed_build_lets_go_of_its_cache(inline_base: Pybuild, context: Path) -> None:
    beat = "trap : TERM; while true; do cat /proc/uptime > /c/beat; usleep 10000; done"
    text = "FROM base\nRUN --mount=type=cache,id=beat,target=/c,sharing=locked --mount=target=/src,rw "
    place = inline_base.base / "Beating"
    place.write_text(f"{text}{beat}\n")
    killed = inline_base.start("build", "-f", place, context)
    while not [path for path in inline_base.store.glob("caches/*/fs/beat") if path.read_text()]:
        time.sleep(0.05)
    look = 'a=$(cat /c/beat); usleep 300000; test "$a" = "$(cat /c/beat)"'
    other = inline_base.base / "Looking"
    other.write_text(f"{text}{look}\n")
    waiting = inline_base.start("build", "--progress=plain", "-f", other, context)
    assert waiting.stderr is not None
    told = iter(waiting.stderr.readline, b"")
    assert any(b"waiting for a cache that is in use: beat" in line for line in told)
    killed.kill()
    killed.communicate()
    inline_base.finish(waiting, "build")
    inline_base.build(context, dockerfile="FROM base\n")
    assert os.listdir(inline_base.store / "tmp") == []
