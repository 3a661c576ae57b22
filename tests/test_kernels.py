"""Kernels: when they run, that they do, and that what they leave on the tape is what the reference leaves.

That their results are right, the contract tests show: they run with each kernel by name, and without.
"""

import threading
from collections.abc import Iterator
from typing import Any

import cases
import numpy as np
import pytest
import subjects
from cases import packed
from test_contract import Run, check_proof

import polyrnn as pr
from polyrnn import kernels, recurrence
from polyrnn.backends import leaves, tree_map
from polyrnn.cells import LSTMCell
from polyrnn.kernels import _memory
from polyrnn.testing import assert_close

NUMPY = subjects.ALL["numpy"]
KINDS = ("rnn_tanh", "rnn_relu", "lstm", "gru")  # that have a kernel for NumPy
WIDE = (7, 17, 3, 5)  # T, N, I, H: the input's share is formed in another way than for small batches
LENGTHS = (7, 3, 0, 1, 5, 7, 2, 6, 4, 7, 1, 3, 5, 0, 2, 6, 7)


@pytest.fixture
def used(monkeypatch) -> Iterator[list[str]]:
    """The names of the kernels that are run, a line for each pass."""
    found: list[str] = []

    def watch(kernel: type, method: str) -> None:
        original = getattr(kernel, method)

        def run(self, *arguments, **options):
            found.append(f"{self.name} {method}")
            return original(self, *arguments, **options)

        monkeypatch.setattr(kernel, method, run)

    for name in kernels.registered("numpy"):
        for cell in kernels._CELLS:
            kernel = type(kernels._open(name, cell))
            watch(kernel, "forward")
            watch(kernel, "backward")
    return found


def test_every_registered_kernel_has_its_name():
    names = kernels.registered("numpy")
    assert "numpy in-place" in names
    for name in names:
        assert {kernels._open(name, cell).name for cell in kernels._CELLS} == {name}
        with pr.use_kernels(name):
            assert set(pr.kernels_in_use().values()) == {name}
    with pr.use_kernels(True):
        assert {value for key, value in pr.kernels_in_use().items() if key.startswith("numpy ")} == {names[0]}


def test_statuses_say_why(monkeypatch):
    found = {status.name: status for status in kernels.kernel_statuses()}
    assert tuple(found) == tuple(kernels._SOURCES)
    assert found["numpy in-place"].used and found["numpy in-place"].remedy is None
    with pr.use_kernels(False):
        assert not any(status.used for status in kernels.kernel_statuses())
    monkeypatch.setattr(kernels, "_installed", lambda package: False)
    assert all("not installed" in status.why and status.remedy for status in kernels.kernel_statuses())


def test_an_unknown_name_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="expected True, False or one of 'numpy"):
        pr.use_kernels("fast")
    monkeypatch.setenv("POLYRNN_KERNELS", "numpy in-place")
    assert set(pr.kernels_in_use().values()) == {"numpy in-place"}
    monkeypatch.setenv("POLYRNN_KERNELS", "fast")
    with pytest.raises(ValueError, match="POLYRNN_KERNELS='fast': expected one of 'on', 'off', 'numpy"):
        pr.kernels_in_use()


@pytest.mark.parametrize("subject", [*subjects.with_kernels((NUMPY,))], ids=repr)
@pytest.mark.parametrize("kind", cases.LAYERS)
def test_the_named_kernel_runs_and_no_other(kind, subject, used):
    run = Run(NUMPY, cases.get(f"{kind}/bias/lengths"))
    with subjects.only_kernel(subject.kernel):
        run.call()
        run.all()
    applies = subject.kernel is not None and kind in KINDS
    passes = ["forward", "forward", "backward"]
    assert used == ([f"{subject.kernel} {name}" for name in passes] if applies else [])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("columns", [512, 40])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", subjects.kernels_of("numpy"))
def test_wide_batches(name, kind, lengths, columns, dtype, monkeypatch, used):
    monkeypatch.setattr(recurrence, "COLUMNS", columns)  # 40: blocks of two steps, and one of one
    case, proof = cases.random_case(kind, WIDE, lengths), cases.proof(kind, WIDE, lengths)
    with subjects.only_kernel(name):
        if dtype == "float64":
            check_proof(Run(NUMPY, case), proof)
        else:
            y, state, grads = Run(NUMPY, case, dtype).all()
            NUMPY.close((y, state), (proof.y, packed(proof.state)), "forward", dtype)
            with pr.use_kernels(False):
                exact = Run(NUMPY, case).all()[2]
            NUMPY.close(grads, exact, "gradient", dtype)
    assert used


@pytest.mark.parametrize("lengths", ["full", "lengths"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", subjects.kernels_of("numpy"))
def test_tapes_are_interchangeable(name, kind, lengths, used):
    """What one leaves, the other can go back on: the residuals are the cell's own, of the same numbers."""
    run = Run(NUMPY, cases.get(f"{kind}/bias/{lengths}"))
    expected = cases.expected(f"{kind}/bias/{lengths}")
    tapes, grads = {}, {}
    for on in (False, True):
        with pr.use_kernels(on):
            *_, tapes[on] = run.forward()
    residuals = [still_running(tapes[on].stack.recurrences[0]) for on in (True, False)]
    assert_close(*residuals, "same")
    for on in (False, True):
        with pr.use_kernels(not on):
            grads[on] = run.layer.backward(tapes[on], run.dy, run.dstate)
    for found in grads.values():
        NUMPY.close(found.params, expected.params, "gradient", "float64")
        NUMPY.close(found.x, expected.x, "gradient", "float64")
        NUMPY.close(found.state, packed(expected.dstate0), "gradient", "float64")
    assert len(used) == 2


def still_running(tape: Any) -> Any:
    """The cell's residuals, and zero where a sequence has ended: what stands there is never used."""
    if tape.noise.valid is None:
        return tape.residuals
    return tree_map(lambda a: np.where(tape.noise.valid, a, 0.0), tape.residuals.cell)


# ---- the switch ------------------------------------------------------------------------------------------------


def test_the_context_manager(monkeypatch):
    monkeypatch.delenv("POLYRNN_KERNELS", raising=False)
    assert pr.kernels_in_use()
    with pr.use_kernels(False):
        assert pr.kernels_in_use() == {}
        with pr.use_kernels(True):
            assert pr.kernels_in_use()
        assert pr.kernels_in_use() == {}
        with pytest.raises(KeyError), pr.use_kernels(True):
            raise KeyError
        assert pr.kernels_in_use() == {}
    assert pr.kernels_in_use()


@pytest.mark.parametrize(("value", "on"), [("off", False), ("0", False), ("OFF", False), ("on", True), ("", True)])
def test_the_environment_variable(monkeypatch, value, on):
    monkeypatch.setenv("POLYRNN_KERNELS", value)
    assert bool(pr.kernels_in_use()) == on
    with pr.use_kernels(True):
        assert pr.kernels_in_use()


def test_the_switch_is_this_threads_own(used):
    run = Run(NUMPY, cases.get("lstm/bias/full"))
    found: list[bool] = []
    with pr.use_kernels(False):
        thread = threading.Thread(target=lambda: (run.call(), found.append(bool(pr.kernels_in_use()))))
        thread.start()
        thread.join()
        assert found == [True] and len(used) == 1
        run.call()
        assert len(used) == 1


def test_a_cell_of_ones_own_has_no_kernel(used):
    class Own(LSTMCell):
        pass

    backend, x = pr.backend("numpy"), np.ones((7, 3, 2))
    with pr.use_kernels(True):
        assert kernels.find(backend, LSTMCell(), x, None) is not None
        assert kernels.find(backend, Own(), x, None) is None


def test_other_dtypes_take_the_reference(used):
    case = cases.get("lstm/bias/full")
    with pr.use_kernels(True):
        y, _ = case.layer({k: v.astype("float16") for k, v in case.params.items()}, case.x.astype("float16"))
    assert y.dtype == "float16" and used == []
    assert np.abs(y - cases.get("lstm/bias/full").layer(case.params, case.x)[0]).max() < 0.01


# ---- memory that is used again -----------------------------------------------------------------------------------


@pytest.fixture
def store(monkeypatch) -> Any:
    monkeypatch.setattr(_memory, "_kept", [])
    return _memory


def test_memory_is_used_again_only_when_nobody_holds_it(store):
    first = store.empty((300, 500), "float32")
    part = first[7:11, ::3]
    second = store.empty((300, 500), "float32")
    assert not np.shares_memory(first, second)
    address = first.ctypes.data
    del first
    third = store.empty((300, 500), "float32")
    assert not np.shares_memory(part, third), "a view was still held"
    del part
    assert store.empty((500, 290), "float32").ctypes.data == address


def test_memory_kept_is_bounded(store):
    held = [store.empty((store.LIMIT // 3,), "uint8") for _ in range(5)]
    for k, array in enumerate(held):
        array[...] = k
    assert [int(array[-1]) for array in held] == list(range(5))
    assert sum(piece.nbytes for piece in store._kept) <= store.LIMIT
    assert store.empty((store.LIMIT + 1,), "uint8").size == store.LIMIT + 1
    assert store.empty((3, 5), "float64").shape == (3, 5)
    assert all(store.LEAST <= piece.nbytes <= store.LIMIT for piece in store._kept)


def test_tapes_of_several_passes_stay_whole(store):
    """Memory used again must not be that of a tape that is still to be gone back on, nor of anything returned."""
    layer, rng = pr.LSTM(11, 61), np.random.default_rng(5)
    params = layer.init(seed=1, dtype="float64")
    xs = [rng.standard_normal((13, 17, 11)) for _ in range(3)]
    runs = [layer.forward(params, x) for x in xs]
    kept = tree_map(np.copy, runs[0][:2])
    grads = [layer.backward(tape, y) for y, _, tape in runs]
    copies = [tree_map(np.copy, tuple(g)) for g in grads]
    for x in reversed(xs):
        layer.backward(layer.forward(params, x)[2], runs[0][0])
    assert len(store._kept) > 0
    with pr.use_kernels(False):
        for k, x in enumerate(xs):
            y, _, tape = layer.forward(params, x)
            NUMPY.close(copies[k], tuple(layer.backward(tape, y)), "gradient", "float64")
    for before, now in zip(leaves((kept, *copies)), leaves((runs[0][:2], *map(tuple, grads))), strict=True):
        np.testing.assert_array_equal(before, now)
