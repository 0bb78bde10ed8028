"""Several items at work at the same time."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.engines.side_by_side import SideBySide, thread_shares
from labctl.errors import LabError


class Worker:
    """Notes that it is used by one thread at a time, and that it was closed."""

    def __init__(self) -> None:
        self.busy = self.closed = False

    def close(self) -> None:
        self.closed = True


@given(st.integers(1, 64), st.integers(1, 8))
def test_threads_are_shared_out_whole(n_threads: int, n_side: int) -> None:
    shares = thread_shares(n_threads, n_side)
    assert sum(shares) == n_threads
    assert len(shares) == min(n_side, n_threads)
    assert max(shares) - min(shares) <= 1


def test_results_come_in_order_though_some_are_slow() -> None:
    workers = [Worker(), Worker()]
    together = threading.Barrier(2)

    def work(worker: Worker, item: int) -> float:
        assert not worker.busy
        worker.busy = True
        if item in (9, 1):
            together.wait(30)  # both workers are at work
        time.sleep(0.02 if item % 3 == 0 else 0)
        worker.busy = False
        return float(item)

    pool = SideBySide(workers)
    items = [9, 1, 4, 6, 2, 3, 5]
    assert list(pool.each(work, items)) == [(item, float(item)) for item in items]
    pool.close()
    assert all(worker.closed for worker in workers)


def test_what_is_ahead_is_dropped_when_nobody_wants_more() -> None:
    begun: list[int] = []

    def work(_worker: Worker, item: int) -> None:
        begun.append(item)
        time.sleep(0.01)

    pool = SideBySide([Worker(), Worker()])
    results = pool.each(work, range(100))
    assert [next(results)[0] for _ in range(4)] == [0, 1, 2, 3]
    results.close()
    at_close = len(begun)
    pool.close()
    assert len(begun) == at_close <= 7


def test_a_failure_ends_the_visit_and_comes_out() -> None:
    def work(_worker: Worker, item: int) -> None:
        if item == 2:
            raise LabError("no", "hint")

    pool = SideBySide([Worker(), Worker()])
    seen = []
    with pytest.raises(LabError, match="no"):
        for item, _ in pool.each(work, range(9)):
            seen.append(item)
    assert seen == [0, 1]
    pool.close()
