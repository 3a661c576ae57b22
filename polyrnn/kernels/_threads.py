"""Threads for compiled kernels, which hold no lock of the interpreter while they run.

A kernel cuts its work into shares and runs one of them itself. The others go to threads that wait for work from the
first call on. One call has them at a time: a second one, from another thread, runs its shares alone instead of waiting.
Which thread runs a share changes no bit of the result.
"""

from __future__ import annotations

import contextvars
import functools
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

VARIABLE = "POLYRNN_NUM_THREADS"

_count: contextvars.ContextVar[int | None] = contextvars.ContextVar("polyrnn_threads", default=None)
_free = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_size = 0


@functools.cache
def available() -> int:
    """POLYRNN_NUM_THREADS, else the processors that this process may use, at most OMP_NUM_THREADS if that is set."""
    own = os.environ.get(VARIABLE, "")
    if own:
        if not own.isdigit() or int(own) < 1:
            raise ValueError(f"{VARIABLE}={own!r}: expected a whole number of at least 1")
        return int(own)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(allowed, int(limit)) if limit.isdigit() and int(limit) > 0 else allowed


def threads() -> int:
    """How many threads a kernel may use now."""
    return _count.get() or available()


def chosen() -> int | None:
    """What `set_threads` has chosen."""
    return _count.get()


def set_threads(count: int | None) -> contextvars.Token:
    """Choose how many, for this thread or task; None for `available`."""
    return _count.set(count)


def reset_threads(token: contextvars.Token) -> None:
    """Take the choice back."""
    _count.reset(token)


def shares(count: int, parts: int, multiple: int = 1) -> list[tuple[int, int]]:
    """`count` things in at most `parts` ranges of nearly equal size, which begin at multiples of `multiple`."""
    units = -(-count // multiple)
    parts = max(1, min(parts, units))
    ends = [min(count, units * k // parts * multiple) for k in range(parts + 1)]
    return list(itertools.pairwise(ends))


def run(function: Callable[[int, int], object], ranges: list[tuple[int, int]]) -> None:
    """function(first, last) for each range, at the same time if the threads are free."""
    if len(ranges) == 1 or not _free.acquire(blocking=False):
        for first, last in ranges:
            function(first, last)
        return
    jobs: list[Future] = []
    failure: BaseException | None = None
    rest = list(ranges[1:])
    try:
        try:
            while rest:
                jobs.append(_workers(len(ranges) - 1).submit(function, *rest[0]))
                rest.pop(0)
        except RuntimeError:  # the interpreter is ending, or no thread could be started
            pass
        for first, last in (ranges[0], *rest):
            function(first, last)
    except BaseException as error:
        failure = error
    # Whatever happens, Ctrl-C too, nothing is given back while a share still writes.
    for job in jobs:
        while not job.done():
            try:
                job.exception()
            except BaseException as error:
                failure = failure or error
        failure = failure or job.exception()
    _free.release()
    if failure is not None:
        raise failure


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
