from __future__ import annotations

import os
import signal

import pytest

from defsr.utils import stopping
from defsr.utils.stopping import StopRequest


@pytest.fixture
def stop():
    handlers = {number: signal.getsignal(number) for number in stopping.STOPPING}
    request = StopRequest()
    request.listen()
    yield request
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize('number', stopping.STOPPING)
def test_a_signal_is_a_request(stop, number):
    assert stop.signal is None
    os.kill(os.getpid(), number)
    assert stop.signal == number


def test_the_first_signal_counts(stop):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.signal == signal.SIGTERM, 'a launcher that passes Ctrl-C on is no second wish'


def test_what_nohup_ignores_stays_ignored(stop):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop.listen()
    os.kill(os.getpid(), signal.SIGHUP)
    assert stop.signal is None


def test_a_second_ctrl_c_interrupts(stop, monkeypatch):
    os.kill(os.getpid(), signal.SIGINT)
    monkeypatch.setattr(stopping, 'PATIENCE', -1)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
