"""How many threads kernels and NumPy's products should use: the products' measured while the work goes on, not guessed.

A product of a training step takes some 50 microseconds. Split between cores it is ready when the slowest part is, and
where other programs keep a core busy that is a time slice later, a hundred times the product itself.

Compiled kernels bring their own threads and leave to NumPy the head's products alone, a seventh of a step. BLAS then
stays on one: on two cores with nothing else running, the model of `polyrnn train` learned 98,000 characters a second
that way, 73,000 with two threads for BLAS, and 75,000 with what products alone are fastest with. Presumably BLAS'
threads go on spinning for a while after each product, on the cores that the kernels' next call needs.
"""

import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from ..backends import Backend
from ..kernels import Kernel

Item = TypeVar("Item")

SECONDS_BETWEEN = 3.0  # two measurements
SECONDS_EACH = 0.02  # of products with one number of threads; fewer of them where they are slow
COMPILED = "numpy numba"  # the kernels that have threads of their own
LEAST_GAIN = 1.1  # what more threads must bring: they share caches with everything else


class Threads:
    """The threads of NumPy's products in this process.

    Parameters
    ----------
    backend : Backend
        Of another one than NumPy nothing is looked after.
    hidden_size, batch : int
        The product that stands for the work: (4H, H) @ (H, N).
    fixed : int, optional
        Use so many, and try no others.
    kernel : Kernel, optional
        What runs the recurrence. Beside compiled kernels BLAS has one thread.
    """

    def __init__(
        self, backend: Backend, hidden_size: int, batch: int, fixed: int | None = None, kernel: Kernel | None = None
    ) -> None:
        if kernel is not None and kernel.name == COMPILED:
            fixed = 1
        self._libraries: list[Any] = []
        if backend.name == "numpy":
            from threadpoolctl import ThreadpoolController

            self._libraries = ThreadpoolController().select(user_api="blas").lib_controllers
        # What the libraries begin with is what OPENBLAS_NUM_THREADS and its like allow.
        most = max((library.num_threads for library in self._libraries), default=1)
        self._choices = [fixed] if fixed else sorted({min(2**k, most) for k in range(most.bit_length() + 1)})
        self._operands = np.ones((4 * hidden_size, hidden_size), "float32"), np.ones((hidden_size, batch), "float32")
        self._again = 0.0
        self.choose()

    def tune(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, and between them, every few seconds, a new choice."""
        for item in items:
            if time.perf_counter() > self._again:
                self.choose()
            yield item

    def choose(self) -> int:
        """Set the number of threads with which products are fastest now, and return it."""
        best, least = self._choices[0], float("inf")
        for count in self._choices:
            self._set(count)
            seconds = self._measure() if len(self._choices) > 1 else 0.0
            if seconds * (LEAST_GAIN if count > self._choices[0] else 1) < least:
                best, least = count, seconds
            elif seconds > 2 * least:
                break  # still more threads would be worse
        self._set(best)
        self._again = time.perf_counter() + SECONDS_BETWEEN
        return best

    def _measure(self) -> float:
        """Mean seconds of a product; the mean and not the best, since waiting is what matters."""
        weight, columns = self._operands
        out = weight @ columns
        start = now = time.perf_counter()
        count = 0
        while now - start < SECONDS_EACH:
            np.matmul(weight, columns, out=out)
            count += 1
            now = time.perf_counter()
        return (now - start) / count

    def _set(self, count: int) -> None:
        for library in self._libraries:
            library.set_num_threads(count)
