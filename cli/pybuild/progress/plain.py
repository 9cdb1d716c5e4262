"""Lines for logs and pipes: `#3 [build 2/4] RUN make`, `#3 0.123 its output`, `#3 DONE 0.2s`, `#3 CACHED`."""

from typing import TextIO, assert_never

from pybuild.api.events import (
    Built,
    Checked,
    Described,
    Event,
    Failed,
    Notice,
    Planned,
    PlannedStep,
    Pulled,
    Pushed,
    Reads,
    ShellEnded,
    ShellOpened,
    StepDone,
    StepLog,
    StepMissed,
    StepStarted,
    Transfer,
)
from pybuild.progress.amounts import human_bytes
from pybuild.progress.escape import Lines, one_line, without_commands
from pybuild.progress.failure import built_line, failure_lines, finding_lines

_TRANSFER_SECONDS = 5.0
"""Byte counts are told this seldom."""


class PlainRenderer:
    """Every line starts with the number of its step, so that output of parallel steps can be told apart."""

    def __init__(self, out: TextIO, *, ci: bool = False) -> None:
        from time import time

        self._out, self._ci, self._clock = out, ci, time
        self._steps: tuple[PlannedStep, ...] = ()
        self._started: dict[int, float] = {}
        self._told: dict[tuple[int, str], float] = {}
        self._lines = Lines()
        self._findings: list[Notice] = []

    def show(self, event: Event) -> None:
        """Write the lines of one event and flush, so that a log can be followed."""
        lines = self._render(event)
        if lines:
            if self._ci:
                lines = [without_commands(line) for line in lines]
            self._out.write("\n".join(lines) + "\n")
            self._out.flush()

    def close(self) -> None:
        """Write the unfinished lines of a build that was broken off."""
        lines = [self._log(step, line) for step, line in self._lines.flush_all()]
        if lines:
            self._out.write("\n".join(lines) + "\n")
            self._out.flush()

    def _render(self, event: Event) -> list[str]:
        match event:
            case Planned():
                self._steps = event.steps
                return []
            case StepStarted():
                self._started[event.step] = event.time
                return [f"#{event.step + 1} {self._label(event.step)}"]
            case StepMissed():
                return [f"#{event.step + 1} not cached: {one_line(event.reason)}"]
            case StepLog():
                return [self._log(event.step, line) for line in self._lines.feed(event.step, event.stream, event.text)]
            case Transfer():
                return self._transfer(event)
            case StepDone():
                lines = [self._log(event.step, line) for line in self._lines.flush(event.step)]
                took = max(0.0, event.time - self._started.get(event.step, event.time))
                ending = "CACHED" if event.cached else f"DONE {took:.1f}s"
                return [*lines, f"#{event.step + 1} {ending}", ""]
            case Notice(rule=rule) if rule:
                self._findings.append(event)
                return []
            case Notice():
                place = f"line {event.line}: " if event.line else ""
                return [f"{one_line(event.level)}: {place}{one_line(event.message)}"]
            case Built():
                return [
                    *self._tell_findings(),
                    *(f"exported {one_line(path)}" for path in event.exported),
                    one_line(built_line(event)),
                    *(f"tagged {one_line(tag)}" for tag in event.tags),
                ]
            case Failed():
                lines = [self._log(step, line) for step, line in self._lines.flush_all()]
                if event.step >= 0:
                    lines += [f"#{event.step + 1} ERROR", ""]
                return [*lines, *self._tell_findings(), *failure_lines(event.failure, ci=self._ci)]
            case ShellOpened():
                if event.failure is None:
                    return []
                lines = [self._log(event.step, line) for line in self._lines.flush(event.step)]
                return [*lines, f"#{event.step + 1} ERROR", "", *failure_lines(event.failure, ci=self._ci)]
            case ShellEnded() | Checked() | Pulled() | Pushed() | Described() | Reads():
                return []
            case _ as unreachable:
                assert_never(unreachable)

    def _tell_findings(self) -> list[str]:
        findings, self._findings = self._findings, []
        return finding_lines(findings)

    def _label(self, step: int) -> str:
        return one_line(self._steps[step].label) if 0 <= step < len(self._steps) else "(unknown step)"

    def _log(self, step: int, line: str) -> str:
        since = self._started.get(step)
        elapsed = max(0.0, self._clock() - since) if since is not None else 0.0
        return f"#{step + 1} {elapsed:.3f} {line}".rstrip()

    def _transfer(self, event: Transfer) -> list[str]:
        key, now = (event.step, event.label), self._clock()
        first = self._told.setdefault(key, now)
        finished = event.total > 0 and event.current >= event.total
        if now - first < _TRANSFER_SECONDS and not finished:
            return []
        if finished:
            # What ends at once is not worth a line
            del self._told[key]
            if now - first < _TRANSFER_SECONDS:
                return []
        else:
            self._told[key] = now
        prefix = f"#{event.step + 1} " if event.step >= 0 else ""
        total = f" / {human_bytes(event.total)}" if event.total else ""
        return [f"{prefix}{one_line(event.label)} {human_bytes(event.current)}{total}"]
