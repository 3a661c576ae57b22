"""The kernels that Numba compiles, where it is installed.

That results are right, `test_contract.py` shows with them by name. Here stands what is theirs alone: threads, addresses
of arrays of all kinds, the cache on the disk, when Numba is loaded.
"""

import importlib.util
import multiprocessing
import os
import subprocess
import sys
import threading
import uuid
from typing import Any

import numpy as np
import pytest
import subjects

import polyrnn as pr
from polyrnn import kernels
from polyrnn.backends import leaves, tree_map
from polyrnn.kernels import _threads
from polyrnn.kernels._numba import kernels as module

NAME = "numpy numba"
HERE = (NAME,) if NAME in kernels.registered("numpy") else ()
compiled = pytest.mark.parametrize("name", HERE)
NUMPY = subjects.ALL["numpy"]
LAYERS = {
    "rnn": pr.RNN(5, 19),
    "relu": pr.RNN(5, 19, nonlinearity="relu"),
    "lstm": pr.LSTM(5, 19),
    "gru": pr.GRU(5, 19),
}
T, N = 61, 23  # large enough that memory comes from the operating system and work is shared between threads


def inputs(layer: Any, seed: int = 0, dtype: str = "float64", steps: int = T, batch: int = N) -> tuple:
    rng = np.random.default_rng(seed)
    params = layer.init(seed=seed, dtype=dtype)
    x, dy = (rng.standard_normal((steps, batch, size)).astype(dtype) for size in (layer.input_size, layer.hidden_size))
    state = tuple(rng.standard_normal((1, batch, layer.hidden_size)).astype(dtype) for _ in layer.cell.states)
    return params, x, dy, state if len(state) > 1 else state[0]


def everything(layer: Any, params: dict, x: Any, dy: Any, state: Any, lengths: Any = None) -> Any:
    y, end, tape = layer.forward(params, x, state, lengths=lengths)
    alone, same = layer(params, x, state, lengths=lengths)
    np.testing.assert_array_equal(y, alone)
    for a, b in zip(leaves(end), leaves(same), strict=True):
        np.testing.assert_array_equal(a, b)
    return tree_map(np.array, (y, end, tuple(layer.backward(tape, dy, state))))


@compiled
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("batch", [1, 2, 3, 7, 13, 23])
def test_batches_of_all_sizes(name, kind, batch):
    arguments = inputs(LAYERS[kind], batch=batch)
    with pr.use_kernels(False):
        expected = everything(LAYERS[kind], *arguments)
    with pr.use_kernels(name):
        NUMPY.close(everything(LAYERS[kind], *arguments), expected, "gradient", "float64")


@compiled
@pytest.mark.parametrize("kind", LAYERS)
def test_arrays_of_all_strides_and_read_only_ones(name, kind):
    """Compiled code has addresses alone: a copy that was made for it must live as long as it runs."""
    layer = LAYERS[kind]
    params, x, dy, state = inputs(layer)
    with pr.use_kernels(name):
        expected = everything(layer, params, x, dy, state)

        def turned(array: Any) -> Any:  # the same numbers, the axes in the opposite order in memory
            return np.asfortranarray(array)

        def apart(array: Any) -> Any:  # every second number of a larger array
            wide = np.full(tuple(2 * n for n in array.shape), np.nan)
            wide[tuple(slice(None, None, 2) for _ in array.shape)] = array
            return wide[tuple(slice(None, None, 2) for _ in array.shape)]

        def odd(array: Any) -> Any:  # at an address that is no multiple of a number's size
            raw = np.empty(array.nbytes + 1, np.uint8)[1:].view()
            found = np.frombuffer(raw.data, array.dtype).reshape(array.shape)
            found.flags.writeable = True
            found[...] = array
            return found

        def fixed(array: Any) -> Any:
            array = array.copy()
            array.flags.writeable = False
            return array

        for form in (turned, apart, odd, fixed):
            given = tree_map(form, (params, x, dy, state))
            for found, wanted in zip(leaves(everything(layer, *given)), leaves(expected), strict=True):
                np.testing.assert_array_equal(found, wanted, form.__name__)


@compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_number_of_threads_changes_no_bit(name, kind, dtype, monkeypatch):
    shared: list[int] = []
    run = _threads.run
    monkeypatch.setattr(_threads, "run", lambda function, ranges: (shared.append(len(ranges)), run(function, ranges)))
    layer, lengths = LAYERS[kind], np.random.default_rng(3).integers(0, T + 1, N)
    monkeypatch.setattr(module, "OPERATIONS", 1)
    found = []
    for count in (1, 2, 3, 5):
        shared.clear()
        with pr.use_kernels(name, threads=count):
            found.append(everything(layer, *inputs(layer, dtype=dtype), lengths))
        assert max(shared) == count
    for other in found[1:]:
        for a, b in zip(leaves(found[0]), leaves(other), strict=True):
            np.testing.assert_array_equal(a, b)


@compiled
def test_calls_from_several_threads_do_not_meet(name, monkeypatch):
    monkeypatch.setattr(module, "OPERATIONS", 1)
    layers = list(LAYERS.values())
    with pr.use_kernels(name, threads=2):
        expected = [everything(layer, *inputs(layer, k)) for k, layer in enumerate(layers)]
    wrong: list[Any] = []

    def work(k: int) -> None:
        with pr.use_kernels(name, threads=2):
            for _ in range(5):
                found = everything(layers[k], *inputs(layers[k], k))
                wrong.extend(
                    a for a, b in zip(leaves(found), leaves(expected[k]), strict=True) if not np.array_equal(a, b)
                )
        wrong.append(None)  # it came to its end

    workers = [threading.Thread(target=work, args=(k,)) for k in range(len(layers))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert wrong == [None] * len(layers)


def _in_a_child(name: str, expected: Any, answer: Any) -> None:
    with pr.use_kernels(name, threads=2):
        found = everything(LAYERS["lstm"], *inputs(LAYERS["lstm"]))
    answer.put(all(np.array_equal(a, b) for a, b in zip(leaves(found), leaves(expected), strict=True)))


@compiled
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:.*fork:RuntimeWarning")
def test_a_forked_child_has_threads_of_its_own(name, monkeypatch):
    monkeypatch.setattr(module, "OPERATIONS", 1)
    with pr.use_kernels(name, threads=2):
        expected = everything(LAYERS["lstm"], *inputs(LAYERS["lstm"]))
    assert _threads._pool is not None
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    child = context.Process(target=_in_a_child, args=(name, expected, answer))
    child.start()
    assert answer.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0


@compiled
def test_an_error_in_a_share_is_the_callers(name):
    def share(first: int, last: int) -> None:
        if first == 2:
            raise KeyError(first)

    with pytest.raises(KeyError):
        _threads.run(share, [(0, 2), (2, 4)])
    assert _threads._free.acquire(blocking=False), "the threads are free again"
    _threads._free.release()


def test_nothing_is_given_back_while_a_share_writes():
    """Ctrl-C in the thread that waits, or an error in one share: the others end before the caller goes on."""
    code = """
import os, signal, threading, time
from polyrnn.kernels import _threads
ended = []
def share(first, last):
    if first == 0:
        return
    if first == 1:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)
    ended.append(first)
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    _threads.run(share, [(0, 1), (1, 2), (2, 3)])
except KeyboardInterrupt:
    print(sorted(ended), _threads._free.acquire(blocking=False))
"""
    assert python(code) == "[1, 2] True"

    late = threading.Event()

    def share(first: int, last: int) -> None:
        if first == 1:
            raise KeyError(first)
        if first == 2:
            threading.Event().wait(0.3)
            late.set()

    with pytest.raises(KeyError):
        _threads.run(share, [(0, 1), (1, 2), (2, 3)])
    assert late.is_set()


def test_threads_may_outlive_the_main_one():
    code = """
import threading, time
from polyrnn.kernels import _threads
def work():
    time.sleep(0.5)  # the main thread has ended, and with it the pool
    done = []
    _threads.run(lambda first, last: done.append(first), [(0, 1), (1, 2)])
    print(sorted(done), flush=True)
threading.Thread(target=work).start()
"""
    assert python(code) == "[0, 1]"


BROKEN = """
import warnings, numpy as np, polyrnn as pr
from polyrnn.kernels import kernel_statuses
layer = pr.LSTM(3, 5)
params, x = layer.init(), np.ones((7, 2, 3), "float32")
with pr.use_kernels(False):
    expected, _ = layer(params, x)
assert pr.kernels_in_use()["numpy LSTM"] == "numpy numba"
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    y, _ = layer(params, x)
    layer(params, x)
assert [w.category for w in caught] == [RuntimeWarning] and "numba" in str(caught[0].message), caught
assert abs(y - expected).max() < 1e-6 and pr.kernels_in_use()["numpy LSTM"] == "numpy in-place"
status = next(s for s in kernel_statuses() if s.name == "numpy numba")
print(status.used, status.why, status.remedy is not None)
"""


@compiled
def test_where_numba_is_switched_off_the_next_kernel_runs(name):
    assert python(BROKEN, NUMBA_DISABLE_JIT="1") == "False Numba does not run here (NUMBA_DISABLE_JIT is set) True"


def test_a_numba_that_refuses_to_run_is_left_out(tmp_path):
    package = tmp_path / "numba"
    package.mkdir()
    (package / "__init__.py").write_text('raise ImportError("Numba needs NumPy 2.0 or less")')
    answer = "False Numba does not run here (Numba needs NumPy 2.0 or less) True"
    assert python(BROKEN, PYTHONPATH=str(tmp_path)) == answer


@compiled
@pytest.mark.parametrize("kind", LAYERS)
def test_the_other_byte_order(name, kind):
    layer = LAYERS[kind]
    params, x, dy, state = inputs(layer, steps=7, batch=3)
    with pr.use_kernels(name):
        expected = everything(layer, params, x, dy, state)
        swapped = tree_map(lambda a: a.astype(a.dtype.newbyteorder()), (params, dy, state))
        found = everything(layer, swapped[0], x, *swapped[1:])
    for a, b in zip(leaves(found), leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def python(code: str, *arguments: str, **variables: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | variables, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


RUN = """
import sys, numpy as np, polyrnn as pr
pr.use_kernels("numpy numba")
layer = pr.RNN(3, 5)
layer(layer.init(), np.ones((7, 2, 3), "float32"))
from polyrnn.kernels._numba import build
names = ("start_forward", "rnn_forward")
stats = [build.compiled(name, np.dtype("float32")).stats for name in names]
print(sum(sum(s.cache_hits.values()) for s in stats), sum(sum(s.cache_misses.values()) for s in stats))
"""


@compiled
def test_a_second_process_compiles_nothing(name, tmp_path):
    python(RUN)
    assert python(RUN) == "2 0"


TRAIN = """
import sys, numpy as np, polyrnn as pr
worst = 0
for kind in sys.argv[1:]:
    layer, rng = getattr(pr, kind)(3, 5), np.random.default_rng(1)
    params = layer.init(seed=2)
    x, dy = (rng.standard_normal((7, 2, size)).astype("float32") for size in (3, 5))
    found = []
    for on in ("numpy numba", False):
        with pr.use_kernels(on):
            y, _, tape = layer.forward(params, x)
            grads = layer.backward(tape, dy)
            found.append([y, grads.x, *grads.params.values()])
    worst = max(worst, *(float(np.max(np.abs(a - b))) for a, b in zip(*found)))
print(worst)
"""


@compiled
def test_what_different_processes_compiled_does_not_meet(name, tmp_path):
    """Functions that one process loads from the disk were compiled by others, each of which counted from one."""
    kinds = ("RNN", "LSTM", "GRU")
    for order in (*((kind,) for kind in kinds), kinds, kinds[::-1]):
        assert float(python(TRAIN, *order, NUMBA_CACHE_DIR=str(tmp_path))) < 1e-5


@compiled
def test_a_change_in_any_of_the_compiled_files_is_noticed(name):
    changed = "from polyrnn.kernels._numba import build\nbuild._digest = lambda: '%s'\n"
    python(RUN)
    code = RUN.replace("layer = ", changed % uuid.uuid4().hex + "layer = ", 1)
    assert python(code) == "0 2"
    assert python(RUN) == "2 0", "the files of the one version stay beside those of the other"


@compiled
def test_without_a_place_on_the_disk_it_runs_all_the_same(name):
    code = """
import numba.core.caching as caching
def nowhere(*arguments, **options): raise RuntimeError("cannot cache function: no locator available")
caching.FunctionCache.__init__ = nowhere
import numpy as np, polyrnn as pr
pr.use_kernels("numpy numba")
layer = pr.RNN(3, 5)
print(layer(layer.init(), np.ones((7, 2, 3), "float32"))[0].shape)
"""
    assert python(code) == "(7, 2, 5)"


def test_numba_is_imported_by_the_first_sequence_and_not_by_streaming():
    code = """
import sys, numpy as np, polyrnn as pr
layer = pr.LSTM(3, 5)
params, state = layer.init(), None
pr.kernels_in_use()
for _ in range(3):
    y, state = layer.step(params, np.ones((2, 3), "float32"), state)
layer(params, np.ones((1, 2, 3), "float32"))
assert "numba" not in sys.modules and "llvmlite" not in sys.modules
layer(params, np.ones((2, 2, 3), "float32"))
print("numba" in sys.modules)
"""
    installed = importlib.util.find_spec("numba") is not None
    assert python(code) == str(installed)


def test_threads_are_chosen_by_variable_and_by_context(monkeypatch):
    assert python("from polyrnn.kernels import _threads; print(_threads.threads())", POLYRNN_NUM_THREADS="7") == "7"
    most = "from polyrnn.kernels import _threads; print(_threads.threads())"
    assert python(most, OMP_NUM_THREADS="1", POLYRNN_NUM_THREADS="") == "1"
    _threads.available.cache_clear()
    monkeypatch.setenv("POLYRNN_NUM_THREADS", "none")
    with pytest.raises(ValueError, match="POLYRNN_NUM_THREADS='none': expected a whole number"):
        _threads.threads()
    monkeypatch.undo()
    before = _threads.threads()
    kernels_before = pr.kernels_in_use()
    with pr.use_kernels(threads=3):
        assert _threads.threads() == 3 and pr.kernels_in_use() == kernels_before
        with pr.use_kernels(False):
            assert _threads.threads() == 3 and pr.kernels_in_use() == {}
            with pr.use_kernels(threads=2):
                assert _threads.threads() == 2 and pr.kernels_in_use() == {}
    assert _threads.threads() == before and pr.kernels_in_use() == kernels_before
    for wrong, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError)):
        with pytest.raises(error, match="threads="):
            pr.use_kernels(threads=wrong)


def test_shares_are_all_of_it_and_nearly_equal():
    for count in (1, 2, 7, 12, 100):
        for parts in (1, 2, 3, 8):
            for multiple in (1, 6):
                found = _threads.shares(count, parts, multiple)
                assert [first for first, _ in found] == [0, *[last for _, last in found[:-1]]]
                assert found[-1][1] == count and len(found) <= parts
                assert all(first % multiple == 0 for first, _ in found)
                sizes = [last - first for first, last in found]
                assert min(sizes) > 0 and max(sizes) - min(sizes) <= 2 * multiple
