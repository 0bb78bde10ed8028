"""Work on several items at the same time, each with a share of the threads."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from queue import SimpleQueue
from typing import Generic, Protocol, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Worker(Protocol):
    """Something that works on one item at a time."""

    def close(self) -> None: ...


WorkerT = TypeVar("WorkerT", bound=Worker)


class SideBySide(Generic[WorkerT]):
    """Workers, each used by one thread at a time."""

    def __init__(self, workers: Sequence[WorkerT]) -> None:
        self._workers = workers
        self._free: SimpleQueue[WorkerT] = SimpleQueue()
        for worker in workers:
            self._free.put(worker)
        self._pool = ThreadPoolExecutor(len(workers))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def each(
        self, work: Callable[[WorkerT, ItemT], ResultT], items: Sequence[ItemT]
    ) -> Generator[tuple[ItemT, ResultT]]:
        """Each item with its result, in the order of the items.

        One more than there are workers is begun ahead, so that none waits for the reader of this. Closing it drops what
        is ahead, and waits for what cannot be stopped.
        """
        todo = iter(items)
        ahead = deque(
            (item, self._pool.submit(self._work, work, item)) for item in itertools.islice(todo, len(self._workers) + 1)
        )
        try:
            while ahead:
                item, future = ahead.popleft()
                result = future.result()
                ahead.extend((later, self._pool.submit(self._work, work, later)) for later in itertools.islice(todo, 1))
                yield item, result
        finally:
            wait([future for _, future in ahead if not future.cancel()])

    def _work(self, work: Callable[[WorkerT, ItemT], ResultT], item: ItemT) -> ResultT:
        worker = self._free.get()
        try:
            return work(worker, item)
        finally:
            self._free.put(worker)


def thread_shares(n_threads: int, n_side: int) -> list[int]:
    """Threads of each of n_side workers; fewer workers where there are not enough threads."""
    n_side = max(1, min(n_side, n_threads))
    return [n_threads // n_side + (i < n_threads % n_side) for i in range(n_side)]
