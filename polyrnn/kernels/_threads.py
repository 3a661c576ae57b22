"""Threads for compiled kernels, which hold no lock of the interpreter while they run.

A kernel cuts its work into shares and runs one of them itself. The others go to threads that wait for work from the
first call on. One call has them at a time: a second one, from another thread, runs its shares alone instead of waiting.
"""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_count: contextvars.ContextVar[int | None] = contextvars.ContextVar("polyrnn_threads", default=None)
_free = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_size = 0


def available() -> int:
    """The processors that this process may use, at most OMP_NUM_THREADS if that is set."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return min(allowed, int(limit)) if limit.isdigit() and int(limit) > 0 else allowed


def threads() -> int:
    """How many threads a kernel may use now."""
    return _count.get() or available()


def shares(count: int, parts: int, multiple: int = 1) -> list[tuple[int, int]]:
    """`count` things in at most `parts` ranges of nearly equal size, which begin at multiples of `multiple`."""
    units = -(-count // multiple)
    parts = max(1, min(parts, units))
    ends = [min(count, units * k // parts * multiple) for k in range(parts + 1)]
    return list(zip(ends[:-1], ends[1:], strict=True))


def run(function: Callable[[int, int], object], ranges: list[tuple[int, int]]) -> None:
    """function(first, last) for each range, at the same time if the threads are free."""
    if len(ranges) == 1 or not _free.acquire(blocking=False):
        for first, last in ranges:
            function(first, last)
        return
    try:
        jobs = [_workers(len(ranges) - 1).submit(function, first, last) for first, last in ranges[1:]]
        try:
            function(*ranges[0])
        finally:
            for job in jobs:
                job.result()
    finally:
        _free.release()


def _workers(count: int) -> ThreadPoolExecutor:
    global _pool, _size
    if _pool is None or _size < count:
        if _pool is not None:
            _pool.shutdown(wait=False)
        _pool, _size = ThreadPoolExecutor(count, thread_name_prefix="polyrnn"), count
    return _pool


def _forget() -> None:
    """In a child after fork the threads are gone, and the lock may be held by one of them."""
    global _free, _pool, _size
    _free, _pool, _size = threading.Lock(), None, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
