"""Ctrl-C: held back until a block ends, or taken as the wish to stop."""
import os
import signal
import time

import pytest

from util.signals import stoppable, uninterrupted


def test_an_interrupt_is_held_back():
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        done.append(True)
    assert done
    with pytest.raises(ValueError), uninterrupted():
        raise ValueError


def test_the_first_ctrl_c_stops_and_the_second_interrupts():
    stopped = []
    with pytest.raises(KeyboardInterrupt), stoppable(lambda: stopped.append(1)):
        os.kill(os.getpid(), signal.SIGINT)
        assert stopped == [1]
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    with pytest.raises(KeyboardInterrupt):  # as before
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    with stoppable(lambda: stopped.append(2)), uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
        assert stopped == [1], "waits until the block ends"
    assert stopped == [1, 2]
