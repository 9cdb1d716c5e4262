"""Ctrl-C is heard wherever the main thread waits.

Python notes a signal at once and acts on it in the main thread, between two instructions. One that comes after the
last of these and before the kernel waits, or that the kernel gives to another thread, interrupts no waiting: it would
be acted on only when something else ends that, which for the next event of a long RUN may be hours.
"""

import os
import signal
import sys
import time
from _thread import get_ident, start_new_thread

_KICKS = (0.05, 0.2, 1.0)
"""Seconds between a signal and the wake-ups that follow it: the first may itself come too early."""


def hear_signals() -> None:
    """Wake the main thread, which calls this, soon after each signal. Without `threading`, whose import takes time."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writer, False)
    signal.signal(signal.SIGURG, _nothing)
    # A full pipe holds wake-ups enough
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    start_new_thread(_kick, (reader, get_ident()))


def _nothing(number: int, frame: object) -> None:
    """Being called is all: waiting in the kernel is over, and what was noted before is acted on."""


def _kick(reader: int, main: int) -> None:
    while data := os.read(reader, 512):
        if set(data) == {signal.SIGURG}:
            continue
        for pause in _KICKS:
            time.sleep(pause)
            if sys.is_finalizing():
                return
            signal.pthread_kill(main, signal.SIGURG)
