"""The time of a build, and that none of it passes while somebody is waited for."""

import time
from threading import Event as Flag

from pybuild.engine.deadline import Deadline


def test_it_cancels_when_the_time_is_over() -> None:
    cancel = Flag()
    with Deadline(0.05, cancel) as deadline:
        assert cancel.wait(5)
        assert deadline.passed


def test_no_time_passes_while_it_is_held() -> None:
    cancel = Flag()
    with Deadline(0.2, cancel) as deadline:
        with deadline.held():
            with deadline.held():
                time.sleep(0.15)
            time.sleep(0.15)
            assert not cancel.is_set()
        begun = time.monotonic()
        assert cancel.wait(5)
        assert time.monotonic() - begun > 0.1


def test_without_one_nothing_ends() -> None:
    cancel = Flag()
    with Deadline(0, cancel) as deadline, deadline.held():
        pass
    assert not deadline.passed


def test_its_end_is_the_end_of_it() -> None:
    cancel = Flag()
    with Deadline(0.1, cancel), Deadline(0.1, Flag()) as held:
        with held.held():
            pass
    assert not cancel.wait(0.2)
