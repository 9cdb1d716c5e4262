"""Shells in failed steps and in images, by people at terminals and by scripts."""

import base64
import json
import os
import re
import signal
from pathlib import Path

import pytest

from support import processes
from support.program import INTERRUPTED, Pybuild
from support.terminal import Terminal

pytestmark = pytest.mark.userns

FAILING = """\
FROM base
ENV COLOUR=blue
ARG SIZE=big
WORKDIR /work
USER 33
RUN cd /tmp; echo $COLOUR > half; test -e /tmp/mended
RUN cp /tmp/half /tmp/after
"""
PROMPT = r"\$ |# "
QUESTION = "how to go on"


def write(context: Path, text: str) -> Path:
    (context / "Dockerfile").write_text(text)
    return context


def build(program: Pybuild, context: Path, *args: str) -> Terminal:
    return Terminal(program, "build", "--shell-on-fail", *args, context)


def check_all_gone() -> None:
    processes.wait_until_gone("_child", "worker")
    assert not processes.find("/bin/sh")


def test_a_failed_step_is_mended_by_hand(base: Pybuild, context: Path) -> None:
    write(context, FAILING)
    with build(base, context, "-t", "mended") as terminal:
        terminal.resize(31, 97)
        terminal.expect("ERROR .*RUN cd /tmp")
        terminal.expect("Dockerfile:6: RUN ended with exit code 1")
        terminal.expect(PROMPT)
        terminal.type("echo =$COLOUR-$SIZE-$PWD-$(cat /tmp/half)-$(id -u)-$TERM; stty size; tty\n")
        terminal.expect("^=blue-big-/work-blue-33-vt100\r")
        terminal.expect("^31 97\r")
        terminal.expect("^/dev/pts/0\r")
        terminal.resize(20, 50)
        terminal.type("stty size\n")
        terminal.expect("^20 50\r")
        # Only what is in the foreground ends by it
        terminal.type("sleep 61.5\n")
        processes.wait_for("sleep", "61.5")
        terminal.type("\x03")
        terminal.expect(PROMPT)
        terminal.type("echo status $?\n")
        terminal.expect("^status 130")
        terminal.type("sleep 62.5\n")
        processes.wait_for("sleep", "62.5")
        terminal.type("\x1a")
        terminal.expect("Stopped")
        # A shell that still takes it for stopped would not exit
        terminal.type("kill -9 %1; wait %1; touch /tmp/mended; exec sh -c 'exit 3'\n")
        terminal.expect(QUESTION)
        terminal.type("r\n")
        terminal.expect("continued by hand")
        terminal.finish()
    assert base("shell", "mended", "--", "ls", "/tmp").text.split() == ["after", "half", "mended"]
    assert base("history", "mended").text.count("continued by hand") == 1
    # The next one cannot have it from the cache; unasked, nothing of it is kept
    assert base.build(context, status=1).events[-1]["failure"]["kept"] == ""
    assert not (base.store / "kept").exists()
    check_all_gone()


@pytest.mark.slow
def test_a_step_may_fail_again_and_its_tree_be_accepted(base: Pybuild, context: Path) -> None:
    write(context, 'FROM base\nSHELL ["/bin/sh", "-e", "-c"]\nRUN echo x >> /count; false\nRUN echo after >> /count\n')
    with build(base, context, "-t", "accepted", "--progress=plain", "--shell-command", "/bin/sh -c 'echo hi; cat'") as (
        terminal
    ):
        terminal.expect("#2 ERROR")
        terminal.expect("hi\r")
        terminal.type("\x04")
        terminal.expect(QUESTION)
        terminal.type("what\n")
        terminal.expect("r, a, s or q")
        terminal.type("r\n")
        terminal.expect("#2 ERROR")
        terminal.expect("hi\r")
        terminal.type("\x04")
        terminal.expect(QUESTION)
        terminal.type("s\n")
        terminal.expect("hi\r")
        terminal.type("\x04")
        terminal.expect(QUESTION)
        terminal.type("a\n")
        terminal.finish()
    assert base("shell", "accepted", "--", "cat", "/count").text.split() == ["x", "x", "after"]


@pytest.mark.slow
def test_giving_up_keeps_the_tree(base: Pybuild, context: Path) -> None:
    write(context, "FROM base\nRUN echo half > /half; false\n")
    with build(base, context, "-q") as terminal:
        terminal.expect(PROMPT)
        terminal.type("echo more > /more; exit\n")
        terminal.expect(QUESTION)
        # Ctrl-C is an answer as well
        terminal.type("\x03")
        name = terminal.expect(r"`pybuild shell (failed-\w+)`")[1]
        terminal.finish(1)
    assert base("shell", name, "--", "cat", "/half", "/more").text == "half\nmore\n"
    check_all_gone()


def test_a_step_without_mounts_is_mended_by_hand(inline_base: Pybuild, context: Path) -> None:
    (context / "secret").write_text("hidden")
    write(
        context,
        "FROM base\nWORKDIR /work\n"
        "RUN --mount=type=secret,id=s,target=/s --mount=type=cache,target=/c echo x >> /c/x; test -e mended\n"
        "RUN ls -d /s /c > /left 2>/dev/null; true\n",
    )
    secret = f"--secret=id=s,src={context}/secret"
    with build(inline_base, context, "--isolation=chroot", "-t", "mended", secret) as terminal:
        terminal.expect("Dockerfile:3: RUN ended with exit code 1")
        terminal.expect(PROMPT)
        terminal.type("echo =$PWD-$(wc -c < /s)-$(cat /c/x)=; touch mended; test -t 0 && stty size\n")
        terminal.expect("^=/work-6-x=\r")
        terminal.expect("^24 80\r")
        terminal.type("exit\n")
        terminal.expect(QUESTION)
        terminal.type("r\n")
        terminal.expect("continued by hand")
        terminal.finish()
    told = inline_base(
        "shell", "--isolation=chroot", "mended", "--", "sh", "-c", "ls; cat /left; ls /s /c 2>/dev/null; true"
    )
    assert told.text == "mended\n"
    check_all_gone()


def test_without_a_terminal_the_tree_is_kept(base: Pybuild, context: Path) -> None:
    write(context, "FROM base\nENV A=b\nWORKDIR /w\nRUN pwd > /half; touch half; exit 7\n")
    args = ("--shell-on-fail", "--build-arg", "HTTP_PROXY=http://me:secret@proxy")
    result = base("build", *args, context, status=1)
    [name] = re.findall(r"^its tree is kept: `pybuild shell (failed-\w+)` enters it$", result.err, re.MULTILINE)
    described = json.loads((base.store / "kept" / name / "step.json").read_bytes())
    assert b"secret" not in base64.b64decode(described["world"])
    assert base.build(context, *args, status=1).events[-1]["failure"]["kept"] != name
    with Terminal(base, "shell", name) as terminal:
        terminal.expect(PROMPT)
        terminal.type("echo =$A-$PWD-$(cat /half)-$HTTP_PROXY=; touch mended; stty size\n")
        terminal.expect("^=b-/w-/w-=\r")
        terminal.expect("^24 80\r")
        # It is one person's at a time, until its end
        assert "in use" in base("shell", name, "--", "true", status=1).err
        terminal.type("exit 9\n")
        terminal.finish(9)
    assert base("shell", name, "--", "ls").text.split() == ["half", "mended"]
    rows = [line.split("  ") for line in base("df").text.splitlines()]
    [row] = [[cell.strip() for cell in row if cell] for row in rows if row[0] == "Failed Steps"]
    assert int(row[1]) >= 2
    assert name in base("prune", "-f").text
    assert "no such kept step" in base("shell", name, status=1).err
    assert not list((base.store / "kept").iterdir())
    check_all_gone()


def test_a_command_in_an_image(base: Pybuild, context: Path) -> None:
    text = 'FROM base\nENV A=b B=c\nWORKDIR /srv/w\nRUN echo inside > /file\nENTRYPOINT ["false"]\n'
    base("build", "-t", "app", write(context, text))
    script = "echo $A-$B-$C-$PWD; cat; echo problem >&2; echo new > /file; exit 5"
    args = ("shell", "-e", "B=d", "--env=C", "-w", "..", "app", "--", "sh", "-c", script)
    data = b"line\n" * 300_000
    result = base(*args, stdin=data, status=5, env={"C": "e"})
    assert result.out == b"b-d-e-/srv\n" + data
    assert result.err.splitlines()[-1] == "problem"
    assert base("shell", "app", "--", "cat", "/file").text == "inside\n"
    assert base("shell", "app", "--", "no-such-program", status=127).err.count("no-such-program") == 1
    assert base("shell", "--network=none", "app", "--", "ls", "/sys/class/net").text.split() == ["lo"]
    assert "No such image" in base("shell", "nothing", status=1).err
    assert not list((base.store / "tmp").iterdir())
    check_all_gone()


@pytest.mark.slow
def test_ctrl_c_ends_a_command_without_a_terminal(base: Pybuild) -> None:
    client = base.start("shell", "base", "--", "sh", "-c", "sleep 63.5; true")
    processes.wait_for("sleep", "63.5")
    client.send_signal(signal.SIGINT)
    base.finish(client, status=INTERRUPTED)
    check_all_gone()


@pytest.mark.slow
@pytest.mark.parametrize("end", ["kill", "hang_up"])
def test_a_user_who_goes_away_leaves_nothing(base: Pybuild, context: Path, end: str) -> None:
    write(context, "FROM base\nRUN echo half > /half; false\n")
    with build(base, context) as terminal:
        terminal.expect(PROMPT)
        terminal.type("sleep 64.5\n")
        processes.wait_for("sleep", "64.5")
        getattr(terminal.process if end == "kill" else terminal, end)()
        terminal.process.wait()
    check_all_gone()
    base("build", "-t", "sound", write(context, "FROM base\nRUN echo whole > /half\n"))
    assert base("shell", "sound", "--", "cat", "/half").text == "whole\n"


@pytest.mark.slow
def test_a_killed_daemon_ends_its_shells(daemon: Pybuild, context: Path) -> None:
    daemon.add_base()
    write(context, "FROM base\nRUN echo half > /half; false\n")
    name = daemon.build(context, "--shell-on-fail", status=1).events[-1]["failure"]["kept"]
    with Terminal(daemon, "shell", name) as terminal:
        terminal.expect(PROMPT)
        terminal.type("echo more > /more; sleep 65.5\n")
        processes.wait_for("sleep", "65.5")
        for process in processes.find("_child", "daemon"):
            os.kill(process.pid, signal.SIGKILL)
        assert "the daemon" in terminal.finish(1)
    check_all_gone()
    assert daemon("shell", name, "--", "cat", "/half", "/more").text == "half\nmore\n"


@pytest.mark.slow
def test_stages_that_fail_side_by_side_wait_for_each_other(base: Pybuild, context: Path) -> None:
    text = "FROM base AS a\nRUN echo a > /a; false\nFROM base AS b\nRUN echo b > /b; false\n"
    write(context, text + "FROM base\nCOPY --from=a /a /\nCOPY --from=b /b /\n")
    with build(base, context, "-t", "both") as terminal:
        for _ in range(2):
            terminal.expect(PROMPT)
            terminal.type("exit\n")
            terminal.expect(QUESTION)
            terminal.type("accept\n")
        terminal.finish()
    assert base("shell", "both", "--", "cat", "/a", "/b").text == "a\nb\n"
