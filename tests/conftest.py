import signal

import pytest
import torch

from tests.browser import browser

torch.set_num_threads(1)  # the same sums in the same order on every machine; and other work may have the other cores
# A script ignores Ctrl-C and a closed terminal if who starts it does (a shell's job in the background, nohup): then those that tests
# interrupt would run on.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def chrome():
    """One browser for all tests: to start it takes seconds."""
    with browser() as made:
        yield made
