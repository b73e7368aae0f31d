import os
import signal

import pytest

from realnet.errors import Stopped
from realnet.runtime import signals
from realnet.runtime.signals import StopSignals


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_a_launcher_may_hand_on_the_ctrl_c_that_a_terminal_has_sent_already():
    with StopSignals() as stop:
        interrupt()
        interrupt()
    assert stop.asked


def test_a_second_ctrl_c_ends_at_once(monkeypatch):
    monkeypatch.setattr(signals, "REPEAT_SECONDS", 0)
    with pytest.raises(KeyboardInterrupt), StopSignals():
        interrupt()
        interrupt()


def test_no_item_follows_a_signal():
    given = []
    with pytest.raises(Stopped), StopSignals() as stop:
        for item in stop.heeding(range(9)):
            given.append(item)
            if item == 2:
                os.kill(os.getpid(), signal.SIGTERM)
    assert given == [0, 1, 2]
