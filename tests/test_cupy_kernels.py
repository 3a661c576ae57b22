"""The kernels for CuPy: what a time step asks of the device, and what a tape may be.

That their results are right, the contract tests show, which run with them by name. Where CuPy cannot run, nothing is
here. Counts are those of an emulation of the CUDA API; where there is none, they are not taken.
"""

import importlib
import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import cases
import numpy as np
import pytest
import subjects
import test_contract
import test_docs
from cases import packed
from subjects import Subject
from test_contract import Run, check_proof, strided
from test_kernels import KINDS, LENGTHS, WIDE

import polyrnn as pr
from polyrnn import kernels, recurrence
from polyrnn.backends import tree_map

NAME = "cupy fused"
FUSED = [replace(subject, kernel=NAME) for subject in subjects.running() if subject.library == "cupy"]
EMULATED = FUSED if importlib.util.find_spec("cupy_on_cpu") else []

fused = pytest.mark.parametrize("subject", [subjects.param(subject) for subject in FUSED], indirect=True)
emulated = pytest.mark.parametrize("subject", [subjects.param(subject) for subject in EMULATED], indirect=True)


def module(name: str) -> Any:
    """One of the kernels' modules; they import CuPy."""
    return importlib.import_module(f"polyrnn.kernels.{name}")


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    """As many steps to a block as in the reference, so that a few steps are several blocks."""
    monkeypatch.setattr(module("_fused"), "BLOCKS", 1)


@pytest.fixture
def used(monkeypatch) -> Iterator[list[str]]:
    """The passes that a kernel has run."""
    found: list[str] = []

    def watch(method: str) -> None:
        original = getattr(module("_fused").Fused, method)

        def run(self, *arguments, **options):
            found.append(method)
            return original(self, *arguments, **options)

        monkeypatch.setattr(module("_fused").Fused, method, run)

    watch("forward")
    watch("backward")
    return found


# ---- what a step costs -----------------------------------------------------------------------------------------


def modes(run: Run) -> dict[str, Callable[[], Any]]:
    """The passes whose steps are counted."""
    *_, tape = run.forward()
    return {
        "without a tape": run.call,
        "with a tape": run.forward,
        "back": lambda: run.layer.backward(tape, run.dy, run.dstate),
    }


@pytest.mark.parametrize("mode", ["without a tape", "with a tape", "back"])
@pytest.mark.parametrize("lengths", [False, True], ids=["full", "lengths"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
@emulated
def test_a_step_is_one_product_and_one_launch(subject, kind, dtype, lengths, mode, used):
    import cupy_on_cpu

    counts = []
    for steps in (7, 12):
        case = cases.random_case(kind, (steps, 3, 5, 2), (steps, 4, 0) if lengths else None)
        arguments = Run(subject, case, dtype)
        arguments.lengths = case.lengths  # on the host, where the door looks at them
        run = modes(arguments)[mode]
        run()  # kernels are compiled, and the pool has grown
        with cupy_on_cpu.count() as c:
            run()
        counts.append(c.as_dict())
    assert len(used) >= 6
    of_five = {name: counts[1][name] - counts[0][name] for name in counts[0]}
    expected = dict.fromkeys(of_five, 0) | {"launches": 5, "gemms": 5, "gemm_products": 5}
    assert of_five == expected
    assert counts[1]["syncs"] == counts[1]["d2h"] == 0


@pytest.mark.parametrize("lengths", [False, True], ids=["full", "lengths"])
@pytest.mark.parametrize("kind", KINDS)
@emulated
def test_without_a_tape_memory_does_not_grow_with_time(subject, kind, lengths, small_blocks, used):
    import cupy

    class Peak(cupy.cuda.MemoryHook):
        """The most bytes in use at once, over those at its beginning."""

        def __init__(self) -> None:
            self.now = self.most = 0

        def malloc_postprocess(self, **event: Any) -> None:
            self.now += event["mem_size"]
            self.most = max(self.most, self.now)

        def free_postprocess(self, **event: Any) -> None:
            self.now -= event["mem_size"]

    def beside_the_output(steps: int) -> int:
        case = cases.random_case(kind, (steps, 3, 5, 64), (steps, 4, 0) if lengths else None)
        valid = subject.array(~case.padding()[:, None, :]) if lengths else None
        arguments = core(subject, case)
        pool = cupy.cuda.MemoryPool()  # one's own: under AddressSanitizer there is no other
        with cupy.cuda.using_allocator(pool.malloc), Peak() as peak:
            y, *_ = recurrence.forward(*arguments, recurrence.Noise(valid), False)
        return peak.most - y.nbytes

    assert 0 < beside_the_output(1700) == beside_the_output(340)  # ten blocks, and two
    assert used == ["forward"] * 2


@emulated
def test_products_are_on_the_current_stream_and_a_graph_cannot_hold_them(subject):
    """docs/cupy.md says why there is no graph; the day this fails, there can be one."""
    import cupy

    run = Run(subject, cases.get("lstm/bias/full"))
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        expected = subject.host(run.all())
        subject.equal(run.all(), expected, "float64")
        stream.begin_capture()
        with pytest.raises(NotImplementedError, match="cuBLAS"):
            run.call()
        stream.end_capture()


def core(subject: Subject, case: cases.Case) -> tuple:
    """Backend, options, parameters, x and state, as the recurrence takes them."""
    params = {key.removesuffix("_l0"): value for key, value in subject.array(case.params).items()}
    x, state = subject.array(np.transpose(case.x, (0, 2, 1))), tuple(subject.array(s[0].T) for s in case.state)
    return subject.backend, recurrence.Options(case.layer.cell), params, x, state


# ---- that it is right in another order, over many blocks, for any tape -----------------------------------------


@pytest.mark.parametrize("lengths", ["full", "lengths"])
@pytest.mark.parametrize("kind", KINDS)
@emulated
def test_the_order_of_threads_does_not_matter(subject, kind, lengths):
    import cupy_on_cpu

    run = Run(subject, cases.get(f"{kind}/bias/{lengths}"))
    expected = subject.host((run.call(), run.all()))
    with cupy_on_cpu.reversed_threads():
        subject.equal((run.call(), run.all()), expected, "float64")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("columns", [512, 40])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("kind", KINDS)
@fused
def test_wide_batches(subject, kind, lengths, columns, dtype, monkeypatch, small_blocks, used):
    monkeypatch.setattr(recurrence, "COLUMNS", columns)  # 40: blocks of two steps, and one of one
    case, proof = cases.random_case(kind, WIDE, lengths), cases.proof(kind, WIDE, lengths)
    if dtype == "float64":
        check_proof(Run(subject, case), proof)
    else:
        y, state, grads = Run(subject, case, dtype).all()
        subject.close((y, state), (proof.y, packed(proof.state)), "forward", dtype)
        with pr.use_kernels(False):
            exact = subject.host(Run(subject, case).all()[2])
        subject.close(grads, exact, "gradient", dtype)
    assert used == ["forward", "backward"]


@pytest.mark.parametrize("lengths", [None, (13, 6, 0)], ids=["full", "lengths"])
@pytest.mark.parametrize("kind", KINDS)
@fused
def test_many_blocks(subject, kind, lengths, monkeypatch, small_blocks, used):
    test_contract.test_many_blocks_of_steps(subject, kind, lengths, monkeypatch)
    assert used == ["forward", "backward", "forward"]


@pytest.mark.parametrize("lengths", ["full", "lengths"])
@pytest.mark.parametrize("kind", KINDS)
@fused
def test_tapes_are_interchangeable(subject, kind, lengths, used):
    """What one leaves, the other can go back on: the residuals are the cell's own, of the same numbers."""
    run, expected = Run(subject, cases.get(f"{kind}/bias/{lengths}")), cases.expected(f"{kind}/bias/{lengths}")
    tapes: dict[bool, Any] = {}
    for on in (False, True):
        with pr.use_kernels(on):
            *_, tapes[on] = run.forward()
    residuals = [still_running(subject, tapes[on].stack.recurrences[0]) for on in (True, False)]
    assert type(residuals[0]) is type(residuals[1])
    for mine, theirs in zip(*residuals, strict=True):
        subjects.near(mine, theirs, "same")
    for on in (False, True):
        with pr.use_kernels(not on):
            found = run.layer.backward(tapes[on], run.dy, run.dstate)
        subject.close(found.params, expected.params, "gradient", "float64")
        subject.close(found.x, expected.x, "gradient", "float64")
        subject.close(found.state, packed(expected.dstate0), "gradient", "float64")
    assert used == ["forward", "backward"]


def still_running(subject: Subject, tape: Any) -> Any:
    """The cell's residuals, and zero where a sequence has ended: what stands there is never used."""
    valid, residuals = subject.host((tape.noise.valid, tape.residuals))
    if valid is None:
        return residuals
    return tree_map(lambda a: np.where(valid, a, 0.0), residuals.cell)


@pytest.mark.parametrize("view", ["strided", "flipped", "wide"])
@pytest.mark.parametrize("kind", KINDS)
@fused
def test_residuals_may_be_any_views(subject, kind, view, used):
    def flipped(array: np.ndarray) -> Any:
        return subject.array(array[::-1].copy())[::-1]  # its steps are contiguous and come in the other order

    def wide(array: np.ndarray) -> Any:
        return subject.array(np.concatenate((array, array), axis=-1))[..., array.shape[-1] :]

    run = Run(subject, cases.get(f"{kind}/bias/lengths"))
    *_, tape = run.forward()
    expected = subject.host(run.layer.backward(tape, run.dy, run.dstate))
    change = {"strided": lambda a: strided(subject, a), "flipped": flipped, "wide": wide}[view]
    (inner,) = tape.stack.recurrences
    cell = type(inner.residuals.cell)(*(change(subject.host(part)) for part in inner.residuals.cell))
    other = inner._replace(residuals=inner.residuals._replace(cell=cell))
    found = run.layer.backward(replaced(tape, other), run.dy, run.dstate)
    subject.equal(found, expected, "float64")
    assert used == ["forward", "backward", "backward"]


def replaced(tape: Any, inner: Any) -> Any:
    return tape._replace(stack=tape.stack._replace(recurrences=(inner,)))


@pytest.mark.parametrize("kind", KINDS)
@fused
def test_each_state_may_have_an_upstream_gradient_at_every_step(subject, kind, rng, used):
    """The layers give none for c; the core may."""
    backend, options, params, x, state = core(subject, cases.get(f"{kind}/bias/full"))
    dy = tuple(subject.array(rng.standard_normal((x.shape[0], *s.shape))) for s in state)
    found = []
    for on in (True, False):
        with pr.use_kernels(on):
            *_, tape = recurrence.forward(backend, options, params, x, state)
            found.append(recurrence.backward(backend, options, params, tape, dy, state))
    subject.close(found[0], subject.host(found[1]), "gradient", "float64")
    assert used == ["forward", "backward"]


# ---- when they run ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", cases.LAYERS)
@fused
def test_they_run_for_their_cells_and_no_other(subject, kind, used):
    Run(subject, cases.get(f"{kind}/bias/lengths")).all()
    assert used == (["forward", "backward"] if kind in KINDS else [])


@pytest.mark.parametrize(
    ("shape", "dtype", "runs"),
    [
        ((7, 3, 2), "float32", True),
        ((1, 3, 1), "float64", True),
        ((7, 3, 2), "float16", False),
        ((0, 3, 2), "float32", False),
        ((7, 3, 0), "float32", False),
        ((7, 4, 3, 2), "float32", False),
    ],
)
@fused
def test_what_they_decline(subject, shape, dtype, runs):
    for cell in kernels._CELLS:
        found = kernels.find(subject.backend, cell(), subject.array(np.zeros(shape), dtype), None)
        assert (found is not None and found.name == NAME) == runs


@fused
def test_the_switch(subject):
    assert set(pr.kernels_in_use()) == {"cupy RNN", "cupy LSTM", "cupy GRU"}
    (status,) = (status for status in kernels.kernel_statuses() if status.name == NAME)
    assert status.used and status.remedy is None
    with pr.use_kernels(False):
        assert pr.kernels_in_use() == {}


@pytest.mark.parametrize("cell", test_docs.KERNELS)
@fused
def test_the_numbers_are_those_of_the_cells(subject, cell):
    """Each equation of the loop is there, forward and back, under its number."""
    kernel = getattr(module("_cupy"), test_docs.CELLS[cell])
    stated = test_docs.numbers(test_docs.equations(test_docs.docstring_of(cell)))
    comments = re.findall(r"//(.*)", kernel.forward_step + kernel.backward_step)
    used = {int(number) for comment in comments for number in test_docs.NUMBER.findall(comment)}
    outside = {"rnn": {5, 6}, "lstm": {9, 10, 11, 12, 13}, "gru": {9, 10}}[cell]  # the loop; or of another cell
    assert used == set(stated) - outside
