"""The loop of `polyrnn train`."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, SimpleNamespace, TracebackType
from typing import Any, NamedTuple

import numpy as np

from .. import Module, optimizers, schedules
from ..data import windows
from ..losses import softmax_cross_entropy
from ..training import TrainStep, evaluate, train_step
from ._history import Row
from ._model import LanguageModel, reading_windows
from ._progress import Display, Report
from ._threads import Threads

EVALUATIONS = 8  # of the held-back text, on the way
SECONDS_BETWEEN_READINGS = 0.2
WARMUP = 50  # steps, but at most a tenth of all


class Result(NamedTuple):
    """What comes of a training."""

    params: dict[str, Any]
    rows: list[Row]
    characters: int
    seconds: float  # without evaluations


class Stop:
    """Within it, Ctrl-C and SIGTERM ask for an end after the present step; a second one interrupts at once."""

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    @property
    def reason(self) -> str:
        """What asked for the end."""
        return {0: "", signal.SIGINT: "Ctrl-C"}.get(self.signal, "a signal to terminate")

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():  # no other one may set handlers
            self._before = {n: signal.signal(n, self._ask) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number


class Pace:
    """Times and speeds."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.first = 0.0  # when the first step had been made: compilation is over then
        self.pauses = 0.0
        self.read_at, self.read_step = self.start, 0
        self.per_second = 0.0  # steps, lately
        self.steps_per_reading = 1

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start

    def read(self, step: int) -> None:
        """Losses have been read up to this step: everything that was asked of the device has been done."""
        now = time.perf_counter()
        speed = (step - self.read_step) / max(now - self.read_at, 1e-9)
        # The first step compiles; after it, a running mean.
        self.per_second = speed if self.read_step <= 1 else 0.8 * self.per_second + 0.2 * speed
        self.first = self.first or now
        self.read_at, self.read_step = now, step
        self.steps_per_reading = min(max(1, round(speed * SECONDS_BETWEEN_READINGS)), 50)

    def average(self, step: int) -> float:
        """Steps per second since the first one, pauses left out."""
        return (step - 1) / max(time.perf_counter() - self.first - self.pauses, 1e-9)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that is not spent on steps."""
        start = time.perf_counter()
        yield
        passed = time.perf_counter() - start
        self.pauses += passed
        self.read_at += passed


def learn(
    o: SimpleNamespace,
    found: LanguageModel,
    learned: np.ndarray,
    held: np.ndarray,
    display: Display,
    stop: Stop,
    threads: Threads,
) -> Result:
    """Train until `o.steps` are made, or `o.seconds` are over, or `stop` says so.

    The learning rate's decay must know its end. Where a time is given, the first steps tell how many it will allow; if
    these are fewer than `o.steps`, they are the number of steps. Losses are read every fifth of a second or so: reading
    waits for the device.
    """
    backend, model, params = found.backend, found.model, found.params
    per_step = o.batch_size * o.sequence_length
    steps: int | None = o.steps
    optimizer, update = new_update(o, model, steps)
    optimizer_state, state = optimizer.init(params), None
    planned = o.seconds is None
    next_evaluation = 1 / EVALUATIONS
    rows: list[Row] = []
    waiting: list[tuple[int, float, float, Any, Any]] = []
    pace = Pace()

    def read() -> None:
        for step, seconds, rate, value, norm in waiting:
            rows.append(Row(step, seconds, rate, float(value), float(norm)))
            if not math.isfinite(rows[-1].loss):
                raise ValueError(f"the loss of step {step} is {rows[-1].loss}; use a smaller --learning-rate")
        waiting.clear()

    text = threads.tune(windows(learned, o.batch_size, o.sequence_length))
    for step, (x, y, new_epoch) in enumerate(text, start=1):
        params, optimizer_state, state, value, norm = update(
            params,
            optimizer_state,
            backend.asarray(x),
            backend.asarray(y),
            None if new_epoch else state,
            o.seed if o.dropout else None,
        )
        waiting.append((step, pace.elapsed(), rate_at(optimizer, step - 1), value, norm))
        by_steps = step / steps if steps else 0.0
        by_time = pace.elapsed() / o.seconds if o.seconds else 0.0
        fraction = max(by_steps, by_time)
        last = fraction >= 1 or stop.signal != 0
        if last or len(waiting) >= pace.steps_per_reading:
            read()
            pace.read(step)
            left = [(steps - step) / pace.per_second] if steps else []
            left += [o.seconds - pace.elapsed()] if o.seconds else []
            loss = float(np.mean([row.loss for row in rows[-20:]]))
            display.show(Report(step, steps, min(fraction, 1.0), loss, pace.per_second * per_step, min(left)))
        if last:
            break
        if not planned and step >= 5 and by_time >= 0.05:
            planned = True
            read()
            # With something to spare for evaluations, and for what else the machine has to do.
            allowed = step + max(1, round(0.92 * (o.seconds - pace.elapsed()) * pace.average(step)))
            if steps is None or allowed < steps:
                steps = allowed
                optimizer, update = new_update(o, model, steps)
        if len(held) and fraction >= next_evaluation:
            next_evaluation = (math.floor(fraction * EVALUATIONS) + 1) / EVALUATIONS
            read()
            with pace.paused():
                loss = evaluate(model, softmax_cross_entropy, params, reading_windows(held))
            rows[-1] = rows[-1]._replace(held_back=loss / math.log(2))
    return Result(params, rows, step * per_step, pace.elapsed() - pace.pauses)


def new_update(
    o: SimpleNamespace, model: Module, steps: int | None
) -> tuple[optimizers.Optimizer, Callable[..., TrainStep]]:
    """The optimiser and the update; without a number of steps the learning rate does not decay yet."""
    peak = float(o.learning_rate)
    warmup = WARMUP if o.warmup_steps is None else o.warmup_steps
    if steps is not None:
        warmup = min(warmup, steps // 10 if o.warmup_steps is None else steps)
    rate: Any = peak
    if o.schedule == "cosine":
        rate = schedules.LinearWarmup(peak, warmup) if steps is None else schedules.CosineDecay(peak, steps, warmup)
    elif o.schedule == "exponential" and steps is not None:
        rate = schedules.ExponentialDecay(peak, 0.01, steps)
    make: dict[str, Callable[[], optimizers.Optimizer]] = {
        "adam": lambda: optimizers.Adam(rate, weight_decay=o.weight_decay),
        "adamw": lambda: optimizers.AdamW(rate, weight_decay=o.weight_decay),
        "rmsprop": lambda: optimizers.RMSProp(rate, momentum=o.momentum, weight_decay=o.weight_decay),
        "sgd": lambda: optimizers.SGD(rate, momentum=o.momentum, weight_decay=o.weight_decay),
    }
    optimizer = make[o.optimizer]()
    return optimizer, train_step(model, softmax_cross_entropy, optimizer, o.clip_norm or None)


def rate_at(optimizer: Any, count: int) -> float:
    """The learning rate of the update after `count` others."""
    rate = optimizer.learning_rate
    return float(rate(count)) if callable(rate) else rate
