"""A Ctrl-C that interrupts no waiting by itself is acted on all the same."""

import subprocess
import sys
import textwrap

import pytest

# The main thread does not take the signal, as if it had come a moment before the kernel waits: Python notes it in
# another thread, and nothing wakes the main one. The line is let go of in the end so that a failure is no hang.
SCRIPT = textwrap.dedent("""
    import os, signal, sys, threading, time
    from pybuild.commands.interrupts import hear_signals

    if sys.argv[1] == "heard":
        hear_signals()
    line = threading.Lock()
    line.acquire()
    threading.Timer(3, line.release).start()
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    begun = time.monotonic()
    try:
        line.acquire()
    except KeyboardInterrupt:
        pass
    print("soon" if time.monotonic() - begun < 2.5 else "late")
    sys.stdout.flush()
    os._exit(0)
""")


@pytest.mark.parametrize(("how", "when"), [("heard", "soon"), ("unheard", "late")])
def test_a_signal_that_wakes_nobody_is_acted_on(how: str, when: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"{when}\n", "")
