"""Each instruction, built for real through both doors and looked at in the exported image."""

import io
import tarfile
from pathlib import Path

import pytest

from support.images import Image
from support.program import Pybuild

pytestmark = pytest.mark.userns


def build(pybuild: Pybuild, context: Path, text: str, *args: str) -> Image:
    return pybuild.image(context, *args, dockerfile=text)


# Configuration


def test_configuration_of_all_instructions(base: Pybuild, context: Path) -> None:
    image = build(
        base,
        context,
        """\
FROM base
MAINTAINER somebody
ARG VERSION=1.2
ENV NAME=value VERSION=$VERSION
ENV OLD form with spaces
LABEL a=1 "b c"="d e"
EXPOSE 80 53/udp
VOLUME ["/data", "/more"]
VOLUME /third
USER www:staff
WORKDIR /srv
WORKDIR sub
SHELL ["/bin/busybox", "sh", "-c"]
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=5s --timeout=2s --start-period=1m --retries=4 CMD ["true"]
ONBUILD RUN echo hi
ENTRYPOINT ["/bin/echo"]
CMD ["one", "two"]
""",
    )
    run = image.run
    assert {"NAME=value", "VERSION=1.2", "OLD=form with spaces"} <= set(run["Env"])
    assert any(item.startswith("PATH=") for item in run["Env"])
    assert run["Labels"] == {"a": "1", "b c": "d e"}
    assert set(run["ExposedPorts"]) == {"80/tcp", "53/udp"}
    assert set(run["Volumes"]) == {"/data", "/more", "/third"}
    assert (run["User"], run["WorkingDir"]) == ("www:staff", "/srv/sub")
    assert run["Shell"] == ["/bin/busybox", "sh", "-c"]
    assert run["StopSignal"] == "SIGQUIT"
    assert run["Healthcheck"] == {
        "Test": ["CMD", "true"],
        "Interval": 5_000_000_000,
        "Timeout": 2_000_000_000,
        "StartPeriod": 60_000_000_000,
        "Retries": 4,
    }
    assert run["OnBuild"] == ["RUN echo hi"]
    assert (run["Entrypoint"], run["Cmd"]) == (["/bin/echo"], ["one", "two"])
    assert image.config["author"] == "somebody"
    assert (image.config["os"], image.config["architecture"] != "") == ("linux", True)


def test_shell_form_uses_the_shell(base: Pybuild, context: Path) -> None:
    image = build(base, context, 'FROM base\nSHELL ["/bin/ash", "-ec"]\nENTRYPOINT exec top\nCMD top -b\n')
    assert (image.run["Entrypoint"], image.run["Cmd"]) == (
        ["/bin/ash", "-ec", "exec top"],
        ["/bin/ash", "-ec", "top -b"],
    )


def test_entrypoint_forgets_the_command_of_the_base(base: Pybuild, context: Path) -> None:
    base.build(context, "-t", "parent", dockerfile='FROM base\nCMD ["inherited"]\n')
    assert build(base, context, 'FROM parent\nENTRYPOINT ["own"]\n').run.get("Cmd") in (None, [])
    assert build(base, context, "FROM parent\nLABEL a=b\n").run["Cmd"] == ["inherited"]


def test_healthcheck_can_be_switched_off(base: Pybuild, context: Path) -> None:
    assert build(base, context, "FROM base\nHEALTHCHECK NONE\n").run["Healthcheck"]["Test"] == ["NONE"]


def test_history_tells_every_instruction_and_layers_match(base: Pybuild, context: Path) -> None:
    (context / "file").write_text("x")
    image = build(base, context, "FROM base\nENV A=1\nCOPY file /\nRUN echo hi > /hi\nCMD true\n")
    layered = [item for item in image.history if not item.get("empty_layer")]
    assert len(layered) == len(image.layers) == 3
    told = [item["created_by"] for item in image.history[-4:]]
    assert ["A=1" in told[0], "COPY" in told[1], "echo hi" in told[2], "CMD" in told[3]] == [True] * 4


def test_labels_and_tags_from_the_command_line(base: Pybuild, context: Path) -> None:
    image = build(
        base, context, "FROM base\nLABEL a=1\n", "-t", "one:x", "-t", "two", "--label", "a=2", "--label", "b=3"
    )
    assert image.run["Labels"] == {"a": "2", "b": "3"}
    assert {"one:x", "two:latest"} <= base.names()


# ARG and ENV


def test_args_come_from_the_command_line_and_the_environment(base: Pybuild, context: Path) -> None:
    text = "ARG BASE=nothing\nFROM $BASE\nARG ONE=1\nARG TWO=2\nARG THREE\nRUN echo $ONE,$TWO,$THREE > /out\n"
    out = base.base / "out.tar"
    args = ("--build-arg", "BASE=base", "--build-arg", "TWO=zwei", "--build-arg", "THREE")
    base.build(context, "-t", "args", *args, "-o", f"type=docker,dest={out}", dockerfile=text, env={"THREE": "drei"})
    image = build(base, context, "FROM args\n")
    assert image.read("out") == "1,zwei,drei\n"
    assert not any(item.startswith(("ONE=", "TWO=", "THREE=")) for item in image.run["Env"])


def test_args_end_with_their_stage(base: Pybuild, context: Path) -> None:
    image = build(base, context, 'FROM base AS a\nARG X=1\nFROM base\nRUN echo "[$X]" > /out\n')
    assert image.read("out") == "[]\n"


def test_env_wins_over_arg_and_reaches_run(base: Pybuild, context: Path) -> None:
    image = build(base, context, "FROM base\nARG A=arg\nENV A=env B=${A:-no}x\nRUN echo $A $B > /out\n")
    assert image.read("out") == "env argx\n"


# RUN


def test_run_in_its_forms(base: Pybuild, context: Path) -> None:
    image = build(
        base,
        context,
        """\
FROM base
RUN echo shell > /shell && \\
    # a comment in between
    echo more >> /shell
RUN ["/bin/sh", "-c", "echo exec > /exec"]
RUN <<END
echo first > /heredoc
echo second >> /heredoc
END
RUN cat > /piped <<A && echo done >> /piped
text
A
RUN <<"SCRIPT"
#!/bin/sh
echo "run by $0" > /script
SCRIPT
""",
    )
    tree = image.tree()
    assert tree["shell"].text == "shell\nmore\n"
    assert tree["exec"].text == "exec\n"
    assert tree["heredoc"].text == "first\nsecond\n"
    assert tree["piped"].text == "text\ndone\n"
    assert tree["script"].text.startswith("run by ")
    assert len(image.layers) == 6


def test_a_layer_holds_what_the_run_changed_and_nothing_else(base: Pybuild, context: Path) -> None:
    image = build(
        base,
        context,
        "FROM base\nRUN mkdir /d && echo 1 > /d/one && echo 2 > /d/two && ln /d/one /d/hard && ln -s one /d/soft\n"
        "RUN rm /d/one && chmod 700 /d/two && touch /d/three && mkfifo /d/pipe\n"
        "RUN rm -r /d && mkdir /d && echo new > /d/new\n",
    )
    first, second, third = (image.added(number) for number in (1, 2, 3))
    # The base has no places to mount on: those stay, empty
    assert first == {"d", "d/one", "d/two", "d/hard", "d/soft", "dev", "proc", "sys"}
    assert (
        {"d/.wh.one", "d/two", "d/three", "d/pipe"}
        <= second
        <= {"d", "d/.wh.one", "d/two", "d/three", "d/pipe", "d/hard"}
    )
    assert "d/new" in third
    tree = image.tree()
    assert {path for path in tree if path.startswith("d/")} == {"d/new"}
    linked = {node.path: node for node in image.layers[1]}
    assert {linked["d/one"].type, linked["d/hard"].type} == {"file", "hardlink"}
    assert (linked["d/soft"].type, linked["d/soft"].link) == ("symlink", "one")


def test_run_leaves_no_trace_of_the_sandbox(base: Pybuild, context: Path) -> None:
    image = build(
        base, context, "FROM base\nRUN cat /etc/hosts /etc/resolv.conf > /dev/null; ls /proc /sys /dev > /dev/null\n"
    )
    assert not image.added() & {"etc/hosts", "etc/resolv.conf", "etc/hostname", "dev/null", "proc/1"}
    assert not [
        node for node in image.layers[-1] if node.path.split("/")[0] in ("proc", "sys", "dev") and "/" in node.path
    ]


def test_run_starts_in_the_working_directory_as_the_user(base: Pybuild, context: Path) -> None:
    image = build(base, context, "FROM base\nWORKDIR /srv/deep\nRUN pwd > out && id -u >> out && umask >> out\n")
    assert image.read("srv/deep/out") == "/srv/deep\n0\n0022\n"


@pytest.mark.multiid
def test_users_and_owners_of_run(base: Pybuild, context: Path) -> None:
    image = build(
        base,
        context,
        "FROM base\nRUN chown www:staff /srv && chmod 2775 /srv\nUSER www\nRUN id -un > /srv/me; id -Gn >> /srv/me\n"
        "USER root\nRUN chown 1234:4321 /srv/me && chmod 4755 /srv/me\n",
    )
    tree = image.tree()
    assert tree["srv/me"].text.split() == ["www", "www", "staff"] or tree["srv/me"].text.split() == [
        "www",
        "staff",
        "www",
    ]
    assert (tree["srv/me"].uid, tree["srv/me"].gid, tree["srv/me"].mode) == (1234, 4321, 0o4755)
    assert (tree["srv"].uid, tree["srv"].gid, tree["srv"].mode) == (33, 50, 0o2775)


def test_network_none_has_only_the_loopback(base: Pybuild, context: Path) -> None:
    image = build(base, context, "FROM base\nRUN ip -o link | wc -l > /out; ip -o link >> /out\n", "--network=none")
    lines = image.read("out").splitlines()
    assert "lo:" in image.read("out")
    assert not [line for line in lines[1:] if "eth" in line]


def test_added_hosts_limits_and_shared_memory(base: Pybuild, context: Path) -> None:
    image = build(
        base,
        context,
        "FROM base\nRUN grep example /etc/hosts > /out; ulimit -n >> /out; df -k /dev/shm | tail -n 1 >> /out\n",
        "--add-host=host.example:192.0.2.7",
        "--ulimit=nofile=512:1024",
        "--shm-size=8m",
    )
    hosts, limit, memory = image.read("out").splitlines()
    assert hosts.split() == ["192.0.2.7", "host.example"]
    assert limit == "512"
    assert "8192" in memory.split()


# COPY and ADD


def test_copy_destinations(base: Pybuild, context: Path) -> None:
    (context / "dir" / "sub").mkdir(parents=True)
    for name in ("a.txt", "b.txt", "dir/c", "dir/sub/d"):
        (context / name).write_text(name)
    image = build(
        base,
        context,
        """\
FROM base
WORKDIR /w
COPY a.txt /new
COPY a.txt /indir/
COPY a.txt b.txt /two/
COPY *.txt wild/
COPY dir /dir
COPY dir/ relative
COPY ["a.txt", "/with space/b"]
COPY . /all/
COPY a.txt .
""",
    )
    tree = image.tree()
    files = {path for path, node in tree.items() if node.type == "file" and not path.startswith(("bin/", "etc/"))}
    assert files == {
        "new", "indir/a.txt", "two/a.txt", "two/b.txt", "w/wild/a.txt", "w/wild/b.txt", "dir/c", "dir/sub/d",
        "w/relative/c", "w/relative/sub/d", "with space/b", "all/a.txt", "all/b.txt", "all/dir/c", "all/dir/sub/d",
        "w/a.txt",
    }  # fmt: skip
    assert tree["new"].text == "a.txt"
    assert (tree["new"].uid, tree["new"].gid) == (0, 0)


def test_copy_keeps_modes_and_links_and_changes_owner_and_mode(base: Pybuild, context: Path) -> None:
    (context / "script").write_text("#!/bin/sh\n")
    (context / "script").chmod(0o755)
    (context / "secret").write_text("s")
    (context / "secret").chmod(0o600)
    (context / "link").symlink_to("script")
    image = build(
        base,
        context,
        "FROM base\nCOPY script secret /plain/\nCOPY . /all/\n"
        "COPY --chown=www:staff script /named\nCOPY --chown=7:8 --chmod=640 script /numbered\n"
        "COPY --chown=www secret /half\n",
    )
    tree = image.tree()
    assert (tree["plain/script"].mode, tree["plain/secret"].mode) == (0o755, 0o600)
    assert (tree["all/link"].type, tree["all/link"].link) == ("symlink", "script")
    assert (tree["named"].uid, tree["named"].gid) == (33, 50)
    assert (tree["numbered"].uid, tree["numbered"].gid, tree["numbered"].mode) == (7, 8, 0o640)
    assert tree["half"].uid == 33


def test_copy_of_a_wildcard_that_nothing_matches_is_no_error(base: Pybuild, context: Path) -> None:
    (context / "always").write_text("x")
    image = build(base, context, "FROM base\nCOPY always sometimes* /\nCOPY never-* /\n")
    assert "always" in image.added(1)


def test_copy_through_links_in_the_image_stays_inside(base: Pybuild, context: Path) -> None:
    (context / "file").write_text("x")
    image = build(
        base,
        context,
        "FROM base\nRUN mkdir /real && ln -s /real /link && ln -s ../../../../../../tmp /out\n"
        "COPY file /link/\nCOPY file /out/file\n",
    )
    tree = image.tree()
    assert tree["link"].type == "symlink"
    assert tree["real/file"].text == tree["tmp/file"].text == "x"


def test_copy_from_stages_and_images(base: Pybuild, context: Path) -> None:
    base.build(context, "-t", "other", dockerfile="FROM base\nRUN echo other > /from-image\n")
    image = build(
        base,
        context,
        "FROM base AS one\nRUN mkdir -p /o/d && echo 1 > /o/d/f && ln -s f /o/d/l && chmod 750 /o/d\n"
        "FROM base\nRUN echo 2 > /second\n"
        "FROM scratch\nCOPY --from=one /o /got\nCOPY --from=1 /second /\nCOPY --from=other /from-image /x/\n",
    )
    tree = image.tree()
    assert {path for path, node in tree.items() if node.type == "file"} == {"got/d/f", "second", "x/from-image"}
    assert (tree["got/d"].mode, tree["got/d/l"].link) == (0o750, "f")
    assert len(image.layers) == 3


def test_heredoc_files(base: Pybuild, context: Path) -> None:
    image = build(
        base,
        context,
        'FROM base\nENV WHO=world\nCOPY <<one <<"two" /files/\nhello $WHO\none\nas $IT is\ntwo\n'
        "ADD <<-three /three\n\tno tab\n\tthree\n",
    )
    tree = image.tree()
    assert tree["files/one"].text == "hello world\n"
    assert tree["files/two"].text == "as $IT is\n"
    assert tree["three"].text == "no tab\n"


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_add_unpacks_archives_and_copy_does_not(base: Pybuild, context: Path, ending: str) -> None:
    kind = ending.removeprefix("tar").removeprefix(".")
    with tarfile.open(context / f"a.{ending}", f"w:{kind}") as archive:
        member = tarfile.TarInfo("in/side")
        member.size, member.mode, member.uid, member.gid = 4, 0o640, 12, 34
        archive.addfile(member, io.BytesIO(b"data"))
    image = build(base, context, f"FROM base\nADD a.{ending} /added/\nCOPY a.{ending} /copied/\n")
    tree = image.tree()
    inside = tree["added/in/side"]
    assert (inside.text, inside.mode, inside.uid, inside.gid) == ("data", 0o640, 12, 34)
    assert tree[f"copied/a.{ending}"].type == "file"
    assert f"added/a.{ending}" not in tree


def test_ignore_files(base: Pybuild, context: Path) -> None:
    for name in ("keep.md", "drop.md", "build/x", "src/a.o", "src/a.c"):
        (context / name).parent.mkdir(exist_ok=True)
        (context / name).write_text(name)
    (context / ".dockerignore").write_text("*.md\n!keep.md\nbuild\n**/*.o\n")
    image = build(base, context, "FROM scratch\nCOPY . /\n")
    files = {path for path, node in image.tree().items() if node.type == "file"}
    assert files == {"keep.md", "src/a.c", ".dockerignore"}
    (context / "own.Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    (context / "own.Dockerfile.dockerignore").write_text("*\n!drop.md\n")
    image = base.image(context, "-f", context / "own.Dockerfile")
    assert {path for path, node in image.tree().items() if node.type == "file"} == {"drop.md"}


# Stages, bases, triggers


def test_unused_stages_do_not_run(base: Pybuild, context: Path) -> None:
    text = (
        "FROM base AS unused\nRUN exit 1\nFROM base AS used\nRUN echo ok > /ok\n"
        "FROM used\nFROM base AS last\nRUN exit 1\n"
    )
    image = build(base, context, text, "--target=used")
    assert image.read("ok") == "ok\n"


def test_from_scratch_alone_and_with_a_file(base: Pybuild, context: Path) -> None:
    (context / "only").write_text("x")
    assert set(build(base, context, "FROM scratch\nCOPY only /\n").tree()) - {""} == {"only"}
    empty = build(base, context, "FROM scratch\nENV A=b\n")
    assert empty.layers == []
    assert "A=b" in empty.run["Env"]


def test_onbuild_triggers_run_in_the_child(base: Pybuild, context: Path) -> None:
    (context / "f").write_text("x")
    base.build(
        context, "-t", "parent", dockerfile="FROM base\nONBUILD COPY f /triggered/\nONBUILD RUN echo $A > /ran\n"
    )
    image = build(base, context, "FROM parent\nRUN cat /triggered/f /ran > /both\n")
    assert image.read("both") == "x\n"
    assert not image.run.get("OnBuild")


def test_workdir_makes_directories_in_a_layer(base: Pybuild, context: Path) -> None:
    image = build(base, context, "FROM base\nWORKDIR /not/there\nWORKDIR /tmp\n")
    assert "not/there" in image.added(1)
    assert image.run["WorkingDir"] == "/tmp"


def test_syntax_and_escape_directives(base: Pybuild, context: Path) -> None:
    image = build(base, context, "# escape=`\nFROM base\nRUN echo a `\n  b > /out\n")
    assert image.read("out") == "a b\n"


# Contexts from standard input


def _tar(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


def test_context_as_a_tar_on_standard_input(base: Pybuild) -> None:
    data = _tar({"Dockerfile": "FROM base\nCOPY d/f /got\n", "d/f": "in the tar"})
    base("build", "-t", "piped", "-", stdin=data)
    data = _tar({"other/Dockerfile": "FROM piped\nCOPY f /\n", "f": "second"})
    out = base.base / "o.tar"
    base("build", "-f", "other/Dockerfile", "-o", f"type=tar,dest={out}", "-", stdin=data)
    with tarfile.open(out) as archive:
        assert {"got", "f"} <= {name.removeprefix("./") for name in archive.getnames()}


def test_dockerfile_on_standard_input(base: Pybuild, context: Path) -> None:
    (context / "f").write_text("x")
    base("build", "-t", "bare", "-", stdin=b"FROM base\nRUN echo hi > /hi\n")
    base("build", "-t", "with-context", "-f", "-", context, stdin=b"FROM base\nCOPY f /\n")
    assert {"bare:latest", "with-context:latest"} <= base.names()


# What comes out


def test_outputs(base: Pybuild, context: Path, tmp_path: Path) -> None:
    text = "FROM scratch\nCOPY f /d/f\n"
    (context / "f").write_text("x")
    (context / "f").chmod(0o755)
    base.build(
        context, "-o", f"type=local,dest={tmp_path / 'tree'}", "-o", f"type=tar,dest={tmp_path / 'out.tar'}",
        "--iidfile", tmp_path / "iid", "--metadata-file", tmp_path / "meta", dockerfile=text,
    )  # fmt: skip
    assert (tmp_path / "tree" / "d" / "f").read_text() == "x"
    assert (tmp_path / "tree" / "d" / "f").stat().st_mode & 0o777 == 0o755
    with tarfile.open(tmp_path / "out.tar") as archive:
        assert "d/f" in [name.removeprefix("./") for name in archive.getnames()]
    image_id = (tmp_path / "iid").read_text().strip()
    assert image_id.startswith("sha256:")
    assert image_id in (tmp_path / "meta").read_text()
    piped = base("build", "-o", "-", "-f", base.base / "Dockerfile", context)
    with tarfile.open(fileobj=io.BytesIO(piped.out)) as archive:
        assert "d/f" in [name.removeprefix("./") for name in archive.getnames()]
    assert base("build", "-q", "-f", base.base / "Dockerfile", context).text.strip() == image_id


def test_a_failed_run_tells_status_place_and_last_lines(base: Pybuild, context: Path) -> None:
    (base.base / "Dockerfile").write_text("FROM base\n\nRUN for i in $(seq 50); do echo line-$i; done; exit 7\n")
    failed = base("build", "--progress=plain", "-f", base.base / "Dockerfile", context, status=1)
    tail = failed.err[failed.err.rindex("Dockerfile:3") :]
    assert "7" in tail.splitlines()[0]
    assert "line-50" in failed.err
    assert "line-31" in failed.err
    assert failed.err.count("line-50") <= 3


def test_commands_that_are_not_there_and_signals(base: Pybuild, context: Path) -> None:
    missing = base.build(context, dockerfile='FROM base\nRUN ["/no/such/program"]\n', status=1)
    assert "127" in missing.events[-1]["failure"]["message"] or missing.events[-1]["failure"]["status"] == 127
    killed = base.build(context, dockerfile="FROM base\nRUN kill -SEGV $$\n", status=1)
    assert "SIGSEGV" in killed.events[-1]["failure"]["message"] or killed.events[-1]["failure"]["status"] == 139
