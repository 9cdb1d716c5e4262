"""Processes that may make files of others than root: traced, so that only their making of files is asked about.

A filter does not see who calls, so the first one, the loose, does not ask when a file is made: it would be root's
anyway. Before a process becomes another user, it is seized (ptrace(2)) and given a second filter, which lets its
threads stop at these calls. A filter that is added later cannot ask by itself: a chain of filters has but one listener.
But it can let the tracer in, who marks the call in an argument that it does not use; the kernel then runs the filters
once more, and the loose one asks about what is marked. At the end of the call the mark is taken away.

The filter is made known by calls that the thread makes in the place of the one it was about to make, which it makes
once more afterwards. All its threads get it at once, and what they start begins with it and is traced as well.
"""

import ctypes
import errno
import os
import re
import select
import signal
import socket
import struct
from collections.abc import Callable, Generator
from contextlib import suppress

from pybuild.sandbox import syscalls
from pybuild.sandbox.emulate import ptrace
from pybuild.sandbox.emulate.credentials import refused
from pybuild.sandbox.emulate.filter import MAKE, MARK, OPEN, trace_filter
from pybuild.sandbox.emulate.identity import Identities
from pybuild.sandbox.emulate.memory import Memory
from pybuild.sandbox.emulate.notify import Asked, GoneError, Listener
from pybuild.sandbox.machine import this_machine

_WALL = 0x40000000
_RESTART = 513
"""ERESTARTNOINTR: who is to stop on its way to user mode makes the call again."""
_RESTARTED = tuple((1 << 64) - number for number in (512, 513, 514, 516))
_NONE = (1 << 64) - 1
_HELD = (1 << 64) - 1 & ~(1 << signal.SIGTRAP - 1)
_SET_MODE_FILTER, _TSYNC = 1, 1
_PRIVATE_ANONYMOUS = 0x22
_PAGE = 4096
_TRACER = re.compile(rb"^TracerPid:\s*([0-9]+)", re.MULTILINE)
_ENDED = re.compile(rb"^State:\s*[ZX]", re.MULTILINE)

Steps = Generator[None, int, None]
"""What is done with a thread while it stands still; each wait status of it goes in, and then it goes on."""

_SINCE = 6, 12
"""Under Linux 6.1, threads that left root together were seen to wait for ever."""

_NO, _SOON, _YES = range(3)
"""Has a thread the filter? With `_SOON` it has, but it may be about to start a process that has not."""


def can_trace() -> bool:
    """Try whether this process may trace others, on a child of its own; False where that is not known to work."""
    if not this_machine().registers.words or _kernel() < _SINCE:
        return False
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            ours.close()
            # As it is for what runs in a RUN; the worker itself is closed to others
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
            theirs.send(b"x")
            # Nor does it outlive this process
            theirs.recv(1)
        finally:
            os._exit(0)
    theirs.close()
    with ours:
        try:
            if not ours.recv(1):
                return False
            ptrace.seize(child)
            ptrace.interrupt(child)
            # Not reaped by this: what is waited for here is that it stands still, or has ended
            found = os.waitid(os.P_PID, child, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            return found is not None and found.si_code == os.CLD_TRAPPED
        except OSError:
            return False
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _kernel() -> tuple[int, int]:
    found = re.match(r"([0-9]+)\.([0-9]+)", os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


class _Thread:
    """A thread that is traced. `announced`: it was seized, or its parent's stop has told of it.

    `unmarked` is what was in the place of the mark, None outside of a call that is marked.
    """

    __slots__ = ("announced", "prepared", "steps", "unmarked")

    def __init__(self, announced: bool = False, prepared: int = _NO) -> None:
        self.announced = announced
        self.prepared = prepared
        self.unmarked: int | None = None
        self.steps: Steps | None = None


class Tracer:
    """All that are traced. `threads` is empty as long as nobody is.

    `events` is a descriptor that is readable when something else is to be looked at, -1 for none.
    """

    def __init__(self, listener: Listener, identities: Identities, memory: Memory, events: int = -1) -> None:
        self._listener = listener
        self._identities = identities
        self._memory = memory
        self._proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        machine = this_machine()
        self._registers, self._numbers = machine.registers, machine.numbers
        self._program = trace_filter(machine)
        names = (*MAKE, *(name for name, _ in OPEN))
        self._makes = {machine.numbers[name] for name in names if name in machine.numbers}
        identities.prepared = self.prepared
        self.threads: dict[int, _Thread] = {}
        self._waiting: list[Asked] = []
        self._again: list[Asked] = []
        self._unannounced: set[int] = set()
        """Ended before their parent's stop told of them."""
        self._events = _open_events()
        self._poll = select.poll()
        self._poll.register(listener.fd, select.POLLIN)
        self._poll.register(self._events, select.POLLIN)
        if events >= 0:
            self._poll.register(events, select.POLLIN)

    def prepared(self, pid: int) -> bool:
        """Is all that a thread makes asked about?"""
        thread = self.threads.get(pid)
        return thread is not None and thread.prepared != _NO

    def receive(self, interrupted: Callable[[], None] | None) -> Asked | None:
        """Return the next call, as the listener does, and see to those that are traced meanwhile."""
        while self.threads:
            if self._again:
                return self._again.pop()
            ready = dict(self._poll.poll())
            if interrupted:
                # Signals do not end this wait
                interrupted()
            if self._events in ready:
                self._see_to_all()
            event = ready.get(self._listener.fd, 0)
            if event & select.POLLIN:
                asked = self._listener.receive_now()
                if asked is not None:
                    return asked
            elif event & select.POLLHUP:
                return None
        return self._again.pop() if self._again else self._listener.receiver(interrupted)()

    # To begin with

    def prepare(self, asked: Asked) -> None:
        """See to it that what the caller's process makes will be asked about; it makes its call again then.

        Raises GoneError; OSError(EPERM) when it cannot be traced, such as when somebody else does.
        """
        pid = asked[1]
        tasks = os.open(b"%d/task" % pid, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._proc)
        try:
            self._listener.check(asked)
            if any(thread in self.threads and self.threads[thread].steps for thread in _names(tasks)):
                # Another thread is at it
                self._waiting.append(asked)
                return
            self._seize_all(tasks)
        finally:
            os.close(tasks)
        thread = self.threads.get(pid)
        if thread is None:
            raise refused()
        ptrace.interrupt(pid)
        thread.steps = self._give_filter(pid)
        next(thread.steps)
        # Where a signal ends the wait for an answer, this one has
        with suppress(GoneError):
            self._listener.refuse(asked, _RESTART)

    def _seize_all(self, tasks: int) -> None:
        """Trace all threads of a process; raise OSError(EPERM)."""
        passed: set[int] = set()
        while new := [pid for pid in _names(tasks) if pid not in self.threads and pid not in passed]:
            for pid in new:
                try:
                    ptrace.seize(pid)
                except ProcessLookupError:
                    passed.add(pid)
                except PermissionError:
                    if not self._is_ours(tasks, pid):
                        passed.add(pid)
                        continue
                    self.threads.setdefault(pid, _Thread())
                else:
                    self.threads[pid] = _Thread(announced=True)

    def _is_ours(self, tasks: int, pid: int) -> bool:
        """Is a thread traced by this process? False for one that has ended; raises OSError(EPERM) for all others."""
        try:
            status = os.open(b"%d/status" % pid, os.O_RDONLY | os.O_CLOEXEC, dir_fd=tasks)
        except FileNotFoundError:
            return False
        try:
            text = os.read(status, 4096)
        except ProcessLookupError:
            return False
        finally:
            os.close(status)
        tracer = _TRACER.search(text)
        if tracer and int(tracer[1]) == os.getpid():
            return True
        if _ENDED.search(text):
            return False
        raise refused()

    def _give_filter(self, pid: int) -> Steps:
        """Let a thread make the filter known for its process, then the call again that it was about to make."""
        status = yield
        halted = _is_halt(status)
        where = self._registers
        before = ptrace.registers(pid)
        mask = ptrace.signal_mask(pid)
        # What it would do on a signal is none of what it is to do now; at the end the signal is there still
        ptrace.set_signal_mask(pid, _HELD)
        page, stopped = yield from self._call(pid, before, "mmap", 0, _PAGE, 3, _PRIVATE_ANONYMOUS, _NONE, 0)
        halted |= stopped
        done = page % _PAGE == 0
        if done:
            head = struct.pack("HxxxxxxQ", len(self._program) // 8, page + 16)
            self._memory.write(pid, page, head + self._program)
            failed, stopped = yield from self._call(pid, before, "seccomp", _SET_MODE_FILTER, _TSYNC, page)
            done, halted = not failed, halted | stopped
            _, stopped = yield from self._call(pid, before, "munmap", page, _PAGE)
            halted |= stopped
        if done:
            self._note_prepared(pid)
        after = list(before)
        if done and before[where.result] in _RESTARTED:
            after[where.pointer] -= where.step
            after[where.result] = before[where.call]
        elif not done:
            after[where.result] = (1 << 64) - errno.EPERM
        after[where.call] = _NONE
        ptrace.set_registers(pid, after)
        ptrace.set_signal_mask(pid, mask)
        if halted:
            # Its process was stopped by a signal meanwhile, and so it stays
            ptrace.interrupt(pid)

    def _call(self, pid: int, before: tuple[int, ...], name: str, *args: int) -> Generator[None, int, tuple[int, bool]]:
        """Let a thread make a call; return what it returned, and whether its process was stopped by a signal."""
        where = self._registers
        given = list(before)
        given[where.pointer] -= where.step
        given[where.result] = self._numbers[name]
        given[where.call] = _NONE
        for place, value in zip(where.arguments, args):
            given[place] = value
        ptrace.set_registers(pid, given)
        stops, number, halted = 0, 0, False
        while stops < 2:
            ptrace.resume(ptrace.SYSCALL, pid, number)
            status = yield
            number = 0
            if status >> 8 == ptrace.CALL_STOP:
                stops += 1
            elif status >> 16:
                halted |= _is_halt(status)
            else:
                number = os.WSTOPSIG(status)
        return ptrace.registers(pid)[where.result], halted

    def _note_prepared(self, pid: int) -> None:
        """Note that a thread and all others of its process have the filter, and trace those that came meanwhile."""
        tasks = os.open(b"%d/task" % pid, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._proc)
        try:
            with suppress(PermissionError):
                self._seize_all(tasks)
            for other in _names(tasks):
                if other in self.threads:
                    self.threads[other].prepared = _YES if other == pid else _SOON
        finally:
            os.close(tasks)

    # From stop to stop

    def _see_to_all(self) -> None:
        os.read(self._events, 128)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | _WALL)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._see_to(pid, status)

    def _see_to(self, pid: int, status: int) -> None:
        if not os.WIFSTOPPED(status):
            self._bury(pid)
            return
        thread = self.threads.get(pid)
        if thread is None:
            # New, and faster than its parent
            thread = self.threads[pid] = _Thread()
        try:
            event = status >> 16
            if event == ptrace.EVENT_EXEC:
                thread = self._after_exec(pid)
            if thread.steps is not None:
                self._step(thread, pid, status)
            elif event == 0:
                self._after_call(thread, pid, os.WSTOPSIG(status))
            elif event == ptrace.EVENT_SECCOMP:
                self._mark(thread, pid)
            elif _is_halt(status):
                ptrace.resume(ptrace.LISTEN, pid)
            else:
                if event in (ptrace.EVENT_FORK, ptrace.EVENT_VFORK, ptrace.EVENT_CLONE):
                    self._announce(thread, ptrace.event_message(pid))
                ptrace.resume(ptrace.CONT, pid)
        except ProcessLookupError:
            # Killed while it stood still, which will be told
            return

    def _step(self, thread: _Thread, pid: int, status: int) -> None:
        assert thread.steps is not None
        try:
            thread.steps.send(status)
        except StopIteration:
            self._end_steps(thread)
            ptrace.resume(ptrace.CONT, pid)
        except ProcessLookupError:
            raise
        except OSError:
            # Between what it was and what it was to be it cannot go on
            self._end_steps(thread)
            os.kill(pid, signal.SIGKILL)

    def _end_steps(self, thread: _Thread) -> None:
        if thread.steps is not None:
            thread.steps = None
            self._again += self._waiting
            self._waiting.clear()

    def _bury(self, pid: int) -> None:
        thread = self.threads.pop(pid, None)
        if thread is not None:
            self._end_steps(thread)
        if thread is None or not thread.announced:
            self._unannounced.add(pid)

    def _announce(self, parent: _Thread, pid: int) -> None:
        """Note a new thread or process by its parent's word."""
        if pid in self._unannounced:
            self._unannounced.remove(pid)
        else:
            thread = self.threads.setdefault(pid, _Thread())
            thread.announced = True
            if parent.prepared == _YES:
                thread.prepared = _YES
        if parent.prepared == _SOON:
            parent.prepared = _YES

    def _after_exec(self, pid: int) -> _Thread:
        """Note that a thread, by now the only one of its process and called like the first one, runs a new program."""
        former = ptrace.event_message(pid)
        self._end_steps(self.threads[pid])
        was = self.threads.pop(former, None) if former != pid else self.threads[pid]
        prepared = was is not None and was.prepared != _NO
        thread = self.threads[pid] = _Thread(announced=True, prepared=_YES if prepared else _NO)
        return thread

    def _after_call(self, thread: _Thread, pid: int, number: int) -> None:
        """Let a thread go on at the end of a marked call, or with a signal."""
        if number == ptrace.CALL_STOP:
            number = 0
            if thread.unmarked is not None:
                ptrace.set_register(pid, self._registers.arguments[5], thread.unmarked)
                thread.unmarked = None
        ptrace.resume(ptrace.CONT, pid, number)

    def _mark(self, thread: _Thread, pid: int) -> None:
        """Let a call that makes a file be asked about, if the file is not to be root's."""
        where = self._registers
        values = ptrace.registers(pid)
        who = self._identities.of(pid)
        if values[where.call] not in self._makes or not (who.uids[3] or who.gids[3]):
            ptrace.resume(ptrace.CONT, pid)
            return
        place = where.arguments[5]
        thread.unmarked = values[place]
        ptrace.set_register(pid, place, MARK)
        ptrace.resume(ptrace.SYSCALL, pid)


def _names(tasks: int) -> list[int]:
    """Return the threads of a process by its directory of them below /proc; none when it is gone."""
    try:
        return [int(name) for name in os.listdir(tasks)]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _is_halt(status: int) -> bool:
    """Has a signal such as SIGSTOP stopped the process?"""
    return status >> 16 == ptrace.EVENT_STOP and os.WSTOPSIG(status) != signal.SIGTRAP


def _open_events() -> int:
    """Return a descriptor that is readable when a traced thread has stopped or ended.

    The signal is blocked: if it interrupted anything, an answer to a call would fail.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    mask = (1 << signal.SIGCHLD - 1).to_bytes(128, "little")
    fd = ctypes.CDLL(None, use_errno=True).signalfd(-1, mask, os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "signalfd")
    return int(fd)
