from __future__ import annotations

import threading

import pytest

from snake_dist.training.prefetch import OneAhead


def test_the_next_one_is_made_on_a_thread_and_each_once():
    made = []
    second = threading.Event()

    def make(step):
        if step == 7:
            raise OSError("unreadable")
        made.append((step, threading.current_thread() is threading.main_thread()))
        if step == 4:
            second.set()
        return step * 10

    ahead = OneAhead(make, num_steps=8)
    assert ahead.get(3) == 30
    assert second.wait(10)
    assert ahead.get(4) == 40
    assert ahead.get(6) == 60  # another than expected: made at once
    assert made[:2] == [(3, True), (4, False)]
    assert (6, True) in made
    with pytest.raises(OSError, match="unreadable"):
        ahead.get(7)
