import io
import json
import os
import pty
import re
import time

import pytest

from pybuild.api.events import (
    Built,
    Event,
    Failed,
    Failure,
    Notice,
    Planned,
    PlannedStep,
    ShellEnded,
    ShellOpened,
    StepDone,
    StepLog,
    StepMissed,
    StepStarted,
    Transfer,
    from_json,
)
from pybuild.progress import open_renderer
from pybuild.progress.tty import TtyRenderer

NOW = time.time()
STEPS = Planned(
    (PlannedStep("[build 1/2] FROM base", "build", 1), PlannedStep("[build 2/2] RUN make", "build", 2)), NOW
)
GOOD: list[Event] = [
    STEPS,
    StepStarted(0, NOW),
    StepDone(0, NOW, cached=True),
    StepStarted(1, NOW),
    StepLog(1, "stdout", "compi"),
    StepLog(1, "stdout", "ling\nun"),
    StepLog(1, "stderr", "\x1b]0;evil\x07\n"),
    StepDone(1, NOW + 0.25, cached=False, size=10),
    Notice("warning", "old syntax", 3),
    Built("sha256:" + "a" * 64, ("app:1",), NOW + 1, exported=("/out.tar",)),
]
BAD: list[Event] = [*GOOD[:5], Failed(Failure("E", "it broke", "mend it", file="Dockerfile", line=2), 1, NOW + 1)]


def render(mode: str, events: list[Event], environ: dict[str, str] | None = None) -> str:
    out = io.StringIO()
    renderer = open_renderer(mode, out, environ=environ or {})
    for event in events:
        renderer.show(event)
    renderer.close()
    renderer.close()
    return re.sub(r"(#\d+) \d+\.\d{3} ", r"\1 T ", out.getvalue())


def test_plain_lines_name_their_step() -> None:
    assert render("plain", GOOD).split("\n") == [
        "#1 [build 1/2] FROM base",
        "#1 CACHED",
        "",
        "#2 [build 2/2] RUN make",
        "#2 T compiling",
        "#2 T \\x1b]0;evil\\x07",
        "#2 T un",
        "#2 DONE 0.2s",
        "",
        "warning: line 3: old syntax",
        "exported /out.tar",
        "built sha256:" + "a" * 64,
        "tagged app:1",
        "",
    ]


def test_plain_tells_a_failure_once_with_the_rest_of_the_output() -> None:
    text = render("plain", BAD)
    assert text.count("it broke") == 1
    assert text.endswith("#2 T compi\n#2 ERROR\n\nDockerfile:2: it broke\nhint: mend it\n")


def test_a_build_that_is_broken_off_keeps_its_last_output() -> None:
    assert render("plain", GOOD[:5]).endswith("#2 T compi\n")


def test_ci_commands_in_output_do_not_survive() -> None:
    events = [STEPS, StepStarted(1, NOW), StepLog(1, "stdout", "##[add-path]/x\n")]
    assert "##[" not in render("plain", events, {"CI": "true"})
    assert "##[" in render("plain", events, {"CI": "false"})


def test_plain_is_what_a_pipe_gets_by_default() -> None:
    assert render("auto", GOOD) == render("plain", GOOD)


def test_json_lines_can_be_read_back() -> None:
    lines = render("json", GOOD).splitlines()
    assert [from_json(json.loads(line)) for line in lines] == GOOD
    assert all(line.isascii() and "\x1b" not in line for line in lines)


def test_quiet_tells_the_failure_only() -> None:
    assert render("quiet", GOOD) == ""
    assert render("quiet", BAD) == "Dockerfile:2: it broke\nhint: mend it\n"


def test_slow_transfers_are_told_and_quick_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    out = io.StringIO()
    renderer = open_renderer("plain", out, environ={})
    renderer.show(Transfer(0, "reading", 0, 4_000_000))
    renderer.show(Transfer(0, "reading", 4_000_000, 4_000_000))
    assert out.getvalue() == ""
    renderer.show(Transfer(0, "reading", 0, 4_000_000))
    now[0] += 6
    renderer.show(Transfer(0, "reading", 1_000_000, 4_000_000))
    assert out.getvalue() == "#1 reading 1MB / 4MB\n"


def on_terminal(events: list[Event], pause: float = 0.0) -> str:
    master, slave = pty.openpty()
    with open(slave, "w", encoding="utf-8") as out:
        renderer = TtyRenderer(out, colours=False)
        for event in events:
            renderer.show(event)
        if pause:
            time.sleep(pause)
        renderer.close()
    os.set_blocking(master, False)
    data = b""
    try:
        while chunk := os.read(master, 65536):
            data += chunk
    except OSError:
        pass
    os.close(master)
    return data.decode()


def test_the_terminal_keeps_what_is_finished() -> None:
    text = on_terminal(GOOD)
    assert "=> CACHED [build 1/2] FROM base" in text
    assert re.search(r"=> \[build 2/2\] RUN make +0\.2s\r\n", text)
    assert "built sha256:" in text
    assert "\x1b]" not in text


def test_the_terminal_shows_running_steps_with_their_last_output() -> None:
    text = on_terminal([*GOOD[:4], *(StepLog(1, "stdout", f"line {n}\n") for n in range(20))], pause=0.3)
    assert "[+] Building" in text
    assert "=> => # line 19" in text
    assert "line 5\r" not in text


def test_the_terminal_shows_byte_counts_as_bars() -> None:
    text = on_terminal([STEPS, StepStarted(0, NOW), Transfer(0, "reading", 50, 100)], pause=0.3)
    assert re.search(r"=> => reading: +50%", text)


def test_the_terminal_tells_a_failure_once() -> None:
    text = on_terminal(BAD, pause=0.2)
    assert text.count("Dockerfile:2: it broke") == 1
    assert "=> ERROR [build 2/2] RUN make" in text


SHELL: list[Event] = [
    *GOOD[:5],
    ShellOpened(1, "token", NOW + 1, Failure("E", "it broke", file="Dockerfile", line=2)),
    ShellEnded(1, "token", NOW + 9, 0),
]


def test_a_failure_is_told_before_its_shell() -> None:
    assert render("plain", SHELL).split("\n")[3:] == [
        "#2 [build 2/2] RUN make",
        "#2 T compi",
        "#2 ERROR",
        "",
        "Dockerfile:2: it broke",
        "",
    ]
    assert render("quiet", SHELL) == "Dockerfile:2: it broke\n"
    assert [from_json(json.loads(line)) for line in render("json", SHELL).splitlines()] == SHELL


def test_nothing_is_drawn_over_a_shell() -> None:
    out = io.StringIO()
    renderer = TtyRenderer(out, colours=False)
    for event in SHELL:
        renderer.show(event)
        if isinstance(event, ShellOpened | ShellEnded):
            shown = out.getvalue()
            assert shown.endswith("Dockerfile:2: it broke\n")
            time.sleep(0.25)
            assert out.getvalue() == shown
    renderer.show(StepLog(1, "stdout", "again\n"))
    time.sleep(0.25)
    assert "again" in out.getvalue()
    renderer.close()


def test_json_lines_trace_bugs_only() -> None:
    for exit_code, shown in ((1, ""), (3, "Traceback")):
        out = io.StringIO()
        open_renderer("json", out).show(Failed(Failure("E", "m", exit_code=exit_code, traceback="Traceback"), 0, 1.0))
        assert json.loads(out.getvalue())["failure"]["traceback"] == shown


@pytest.mark.parametrize("mode", ["plain", "tty"])
def test_findings_of_checks_are_told_at_the_end(mode: str) -> None:
    found = [Notice("warning", "Stage name 'A' should be lowercase", 1, "StageNameCasing")]
    good = render(mode, [STEPS, *found, *GOOD[1:]])
    assert good.index("old syntax") < good.index("1 warning found (") < good.index("built sha256:")
    assert " - StageNameCasing: Stage name 'A' should be lowercase (line 1)" in good
    assert good.count("StageNameCasing") == 1
    bad = render(mode, [STEPS, *found, *found, *BAD[1:]])
    assert bad.index("2 warnings found (") < bad.index("it broke")
    assert "StageNameCasing" not in render("quiet", [STEPS, *found, *GOOD[1:]])


def test_plain_lines_tell_why_a_step_was_not_cached() -> None:
    why = "file a\x1b changed"
    events: list[Event] = [STEPS, StepStarted(1, NOW), StepMissed(1, why), StepDone(1, NOW, cached=False, reason=why)]
    assert render("plain", events).endswith("#2 not cached: file a\\x1b changed\n#2 DONE 0.0s\n\n")
    assert "not cached" not in render("tty", events)
