"""The contract of the recurrent layers, on every subject, with every kernel and without.

What the numbers must be comes from elsewhere: PyTorch's stored results, scalar loops, complex-step differences.
"""

import threading
from dataclasses import replace
from functools import partial
from typing import Any

import cases
import numpy as np
import pytest
from cases import LAYERS, packed, unpacked
from subjects import Subject, near, only_kernel, tagged, vary

from polyrnn import Gradients, recurrence
from polyrnn.backends import tree_map
from polyrnn.testing import unchanged

DTYPES = ("float64", "float32")
RICH = "bias/lengths"  # the stored sizes on which the properties are tested


# JAX compiles each function for each shape. Inside jax.jit the same functions are traced as by the eager door, which
# is itself a jit; and what the recurrence does at the edges does not depend on the cell.


def results(subject: Subject, name: str, dtype: str) -> bool:
    if "jit" in subject.tags:
        return name.endswith(RICH) or (name.endswith("nobias/full") and dtype == "float64")
    return "compiles" not in subject.tags or dtype == "float64" or name.endswith(RICH)


def eager(subject: Subject, *_: Any) -> bool:
    return "jit" not in subject.tags


def edges(subject: Subject, kind: str, lengths: Any = True) -> bool:
    return "compiles" not in subject.tags or ("jit" not in subject.tags and kind in ("lstm", "gru") and bool(lengths))


def ones(subject: Subject, kind: str, sizes: tuple) -> bool:
    return edges(subject, kind) and ("compiles" not in subject.tags or sizes[:2] in ((1, 1), (5, 1)))


def blocks(subject: Subject, kind: str, lengths: Any) -> bool:
    return "compiles" not in subject.tags or ("jit" not in subject.tags and bool(lengths))


class Run:
    """A case's arguments on a subject."""

    def __init__(self, subject: Subject, case: cases.Case, dtype: str = "float64") -> None:
        self.subject, self.case, self.dtype = subject, case, dtype
        self.layer = subject.module(case.layer)
        self.params, self.x = subject.array(case.params, dtype), subject.array(case.x, dtype)
        self.state = packed(subject.array(case.state, dtype))
        self.lengths = None if case.lengths is None else subject.array(case.lengths)
        self.dy = subject.array(case.dy, dtype)
        self.dstate = packed(subject.array(case.dstate, dtype))

    def arguments(self) -> tuple:
        return self.params, self.x, self.state, self.lengths, self.dy, self.dstate

    def call(self) -> tuple[Any, Any]:
        return self.layer(self.params, self.x, self.state, lengths=self.lengths)

    def forward(self) -> tuple[Any, Any, Any]:
        return self.layer.forward(self.params, self.x, self.state, lengths=self.lengths)

    def all(self) -> tuple[Any, Any, Gradients]:
        y, state, tape = self.forward()
        return y, state, self.layer.backward(tape, self.dy, self.dstate)

    def check(self, found: tuple, y: Any, state: tuple, grads: Gradients, forward: str, gradient: str) -> None:
        close = self.subject.close
        close(found[0], y, forward, self.dtype, "y")
        close(found[1], packed(state), forward, self.dtype, "state")
        close(found[2].params, grads.params, gradient, self.dtype, "grads.params")
        close(found[2].x, grads.x, gradient, self.dtype, "grads.x")
        close(found[2].state, packed(grads.state), gradient, self.dtype, "grads.state")


def everything(layer: Any, params: Any, x: Any, state: Any, lengths: Any, dy: Any, dstate: Any) -> tuple:
    """What the call gives; and outputs, state and gradients of forward and backward."""
    y, end, tape = layer.forward(params, x, state, lengths=lengths)
    return layer(params, x, state, lengths=lengths), (y, end, layer.backward(tape, dy, dstate))


def on_host(subject: Subject, found: tuple) -> tuple:
    y, state, grads = subject.host(found)
    return y, unpacked(state), Gradients(grads.params, grads.x, unpacked(grads.state))


@vary(results, name=cases.NAMES, dtype=DTYPES)
def test_results_and_gradients(subject, name, dtype):
    case, expected = cases.get(name), cases.expected(name)
    run = Run(subject, case, dtype)
    with unchanged(run.arguments()):
        called, found = subject.optimized(partial(everything, case.layer))(*run.arguments())
    grads = Gradients(expected.params, expected.x, expected.dstate0)
    assert all(np.abs(g).max() > 1e-3 for g in (*grads.params.values(), grads.x, *grads.state))
    run.check(found, expected.y, expected.state, grads, "forward", "gradient")
    subject.close(called[0], expected.y, "forward", dtype)
    subject.close(called[1], packed(expected.state), "forward", dtype)
    padding = case.padding()
    assert not subject.host(found[0])[padding].any()
    assert not subject.host(found[2].x)[padding].any()


@pytest.mark.parametrize("kind", LAYERS)
def test_what_stands_in_the_padding_changes_nothing(subject, kind):
    case = cases.get(f"{kind}/{RICH}")
    padding = case.padding()
    assert padding.any()
    found = []
    for fill in (np.nan, 3.0):
        x, dy = case.x.copy(), case.dy.copy()
        x[padding], dy[padding] = fill, -fill
        found.append(on_host(subject, Run(subject, replace(case, x=x, dy=dy)).all()))
    for a, b in zip(flat(found[0]), flat(found[1]), strict=True):
        assert np.isfinite(a).all()
        assert np.array_equal(a, b)
    y, _, grads = found[0]
    assert not y[padding].any() and not grads.x[padding].any()


def flat(found: tuple) -> list[np.ndarray]:
    y, state, grads = found
    return [y, *state, *grads.params.values(), grads.x, *grads.state]


@pytest.mark.parametrize("kind", LAYERS)
def test_length_zero_leaves_the_state(subject, kind):
    case = cases.get(f"{kind}/{RICH}")
    lengths = case.lengths.copy()
    lengths[1] = 0
    case = replace(case, lengths=lengths)
    y, state, grads = on_host(subject, Run(subject, case).all())
    assert not y[:, 1].any() and not grads.x[:, 1].any()
    for s, before, d, after in zip(state, case.state, grads.state, case.dstate, strict=True):
        assert np.array_equal(s[:, 1], before[:, 1])
        assert np.array_equal(d[:, 1], after[:, 1])
    expected, ends = case.oracle()
    subject.close(subject.array(y), expected, "forward", "float64")
    subject.close(subject.array(state), ends, "forward", "float64")


@vary(edges, kind=LAYERS, lengths=[False, True])
def test_no_steps(subject, kind, lengths):
    case = cases.random_case(kind, (0, 3, 5, 7), (0, 0, 0) if lengths else None)
    y, state, grads = found = Run(subject, case).all()
    subject.equal(y, np.zeros((0, 3, 7)), "float64")
    subject.equal(state, packed(case.state), "float64")
    subject.equal(found[2].params, {k: np.zeros_like(v) for k, v in case.params.items()}, "float64")
    subject.equal(grads.x, np.zeros((0, 3, 5)), "float64")
    subject.equal(grads.state, packed(case.dstate), "float64")
    y, state = Run(subject, case).call()
    subject.equal(y, np.zeros((0, 3, 7)), "float64")
    subject.equal(state, packed(case.state), "float64")


@vary(edges, kind=LAYERS, lengths=[False, True])
def test_no_examples(subject, kind, lengths):
    case = cases.random_case(kind, (5, 0, 3, 7), () if lengths else None)
    y, state, grads = Run(subject, case).all()
    subject.equal(y, np.zeros((5, 0, 7)), "float64")
    subject.equal(state, packed(case.state), "float64")
    subject.equal(grads.params, {k: np.zeros_like(v) for k, v in case.params.items()}, "float64")
    subject.equal(grads.x, np.zeros((5, 0, 3)), "float64")
    subject.equal(grads.state, packed(case.dstate), "float64")


@vary(ones, kind=LAYERS, sizes=[(1, 3, 5, 7), (5, 1, 3, 7), (1, 1, 2, 3), (3, 2, 1, 1)])
def test_sizes_of_one(subject, kind, sizes):
    check_proof(Run(subject, cases.random_case(kind, sizes)), cases.proof(kind, sizes))


def check_proof(run: Run, proof: cases.Proof) -> None:
    """Outputs against the oracle; gradients along random directions and, of analytic cells, everywhere."""
    subject, (y, state, grads) = run.subject, run.all()
    subject.close(y, proof.y, "forward", "float64", "y")
    subject.close(state, packed(proof.state), "forward", "float64", "state")
    states = dict(zip(run.case.layer.cell.states, unpacked(grads.state), strict=True))
    own = {**grads.params, "x": grads.x, **states}
    if proof.exact:
        subject.close(own, proof.exact, "gradient", "float64", "grads")
    host = subject.host(own)
    for key, (direction, slope) in proof.slopes.items():
        near(np.sum(host[key] * direction), slope, "differences", key)


@vary(eager, kind=LAYERS)
def test_absent_upstream_gradients_are_zero(subject, kind):
    run = Run(subject, cases.get(f"{kind}/{RICH}"))
    *_, tape = run.forward()
    count = len(unpacked(run.dstate))
    zero_y, zeros = subject.array(np.zeros_like(run.case.dy)), subject.array(np.zeros_like(run.case.dstate[0]))
    masks = [(True, (False,) * count), (False, (True,) * count)]
    masks += [(False, (True, False)), (True, (False, True))] if count > 1 else []
    for with_y, which in masks:
        parts = unpacked(run.dstate)
        given = tuple(p if on else None for p, on in zip(parts, which, strict=True))
        full = tuple(p if on else zeros for p, on in zip(parts, which, strict=True))
        absent = run.layer.backward(tape, run.dy if with_y else None, packed(given) if any(which) else None)
        explicit = run.layer.backward(tape, run.dy if with_y else zero_y, packed(full))
        subject.close(absent, subject.host(explicit), "same", "float64")
        assert np.abs(subject.host(absent.x)).max() > 1e-3


@pytest.mark.parametrize("kind", LAYERS)
def test_a_zero_upstream_gradient_gives_exactly_zero(subject, kind):
    run = Run(subject, cases.get(f"{kind}/{RICH}"))
    *_, tape = run.forward()
    zero = subject.array({"y": np.zeros_like(run.case.dy), "s": tuple(np.zeros_like(d) for d in run.case.dstate)})
    point = Gradients(run.case.params, run.case.x, packed(run.case.state))
    expected = zeros_like(point)
    subject.equal(run.layer.backward(tape, zero["y"], packed(zero["s"])), expected, "float64")
    subject.equal(run.layer.backward(tape), expected, "float64")


def zeros_like(tree: Any) -> Any:
    return tree_map(np.zeros_like, tree)


@vary(eager, kind=LAYERS)
def test_two_halves_are_the_whole(subject, kind):
    case = cases.get(f"{kind}/bias/full")
    cut = 3
    whole_y, whole_state, whole = on_host(subject, Run(subject, case).all())
    first = Run(subject, replace(case, x=case.x[:cut], dy=case.dy[:cut]))
    second = Run(subject, replace(case, x=case.x[cut:], dy=case.dy[cut:]))
    y1, between, tape1 = first.forward()
    y2, state, tape2 = second.layer.forward(second.params, second.x, between)
    g2 = second.layer.backward(tape2, second.dy, second.dstate)
    g1 = first.layer.backward(tape1, first.dy, g2.state)
    xp = subject.xp
    subject.close(xp.concat([y1, y2]), whole_y, "same", "float64")
    subject.close(state, packed(whole_state), "same", "float64")
    subject.close(xp.concat([g1.x, g2.x]), whole.x, "same", "float64")
    subject.close({k: g1.params[k] + g2.params[k] for k in g1.params}, whole.params, "same", "float64")
    subject.close(g1.state, packed(whole.state), "same", "float64")


@vary(blocks, kind=LAYERS, lengths=[None, (13, 6, 0)])
def test_many_blocks_of_steps(subject, kind, lengths, monkeypatch):
    # Three blocks of four steps and one of one. No other test has these sizes: what JAX has compiled knows no patch.
    monkeypatch.setattr(recurrence, "COLUMNS", 13)
    assert recurrence.steps_per_block(3) == 4
    sizes = (13, 3, 2, 5)
    run, proof = Run(subject, cases.random_case(kind, sizes, lengths)), cases.proof(kind, sizes, lengths)
    check_proof(run, proof)
    subject.close(run.call(), (proof.y, packed(proof.state)), "forward", "float64")


@pytest.mark.parametrize("kind", LAYERS)
def test_steps_are_the_sequence(subject, kind):
    run = Run(subject, cases.get(f"{kind}/bias/full"))
    y, end = subject.host(run.call())
    state = run.state
    for t in range(y.shape[0]):
        y_t, state = run.layer.step(run.params, run.x[t, ...], state)
        subject.close(y_t, y[t], "same", "float64")
    subject.close(state, end, "same", "float64")


@vary(eager, kind=LAYERS)
def test_an_absent_state_is_zero(subject, kind):
    case = cases.get(f"{kind}/bias/full")
    zero = replace(case, state=tuple(np.zeros_like(s) for s in case.state))
    run, other = Run(subject, case), Run(subject, zero)
    found = run.layer(run.params, run.x)
    subject.close(found, subject.host(other.call()), "same", "float64")
    y, _, tape = run.layer.forward(run.params, run.x)
    grads = run.layer.backward(tape, run.dy, run.dstate)
    subject.close((y, grads), tuple(subject.host(other.all()[::2])), "same", "float64")


@vary(eager, kind=LAYERS)
def test_a_tape_can_be_used_again(subject, kind):
    run = Run(subject, cases.get(f"{kind}/{RICH}"))
    *_, tape = run.forward()
    with unchanged(tape):
        first = run.layer.backward(tape, run.dy, run.dstate)
        kept = subject.host(first)
        kept = Gradients({k: v.copy() for k, v in kept.params.items()}, kept.x.copy(), kept.state)
        # another run between them: buffers that are shared would show
        other = run.layer.backward(tape, run.dy * 2.0, run.dstate)
    subject.equal(first, kept, "float64")
    subject.equal(run.layer.backward(tape, run.dy, run.dstate), kept, "float64")
    assert not np.array_equal(subject.host(other.x), kept.x)


@vary(eager, kind=LAYERS)
def test_results_of_one_call_survive_the_next(subject, kind):
    run = Run(subject, cases.get(f"{kind}/{RICH}"))
    y, state, tape = run.forward()
    with unchanged((y, state, tape)):
        run.layer.forward(run.params, -run.x, run.state, lengths=run.lengths)
        run.layer(run.params, -run.x, run.state, lengths=run.lengths)


@pytest.mark.parametrize("kind", LAYERS)
@tagged("strided")
def test_strided_views(subject, kind):
    case = cases.get(f"{kind}/{RICH}")
    run = Run(subject, case)
    expected = on_host(subject, run.all())
    run.params = {k: strided(subject, v) for k, v in case.params.items()}
    run.x, run.dy = strided(subject, case.x), strided(subject, case.dy)
    run.state = packed(tuple(strided(subject, s) for s in case.state))
    run.dstate = packed(tuple(strided(subject, s) for s in case.dstate))
    with unchanged(run.arguments()):
        found = run.all()
    run.check(found, *expected, "same", "same")


def strided(subject: Subject, array: np.ndarray) -> Any:
    """The same values as a view with steps, its last axis first in memory."""
    wide = np.full((*array.shape[::-1][:-1], 2 * array.shape[0]), 7.0)
    wide[..., ::2] = array.T
    view = subject.array(wide)[..., ::2]
    return subject.xp.permute_dims(view, tuple(reversed(range(array.ndim))))


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_tanh"])
@tagged("concrete")
def test_threads_do_not_meet(subject, kind):
    case = cases.get(f"{kind}/{RICH}")
    runs = [Run(subject, replace(case, x=case.x * k)) for k in (1.0, -1.0, 0.5, 2.0)]
    expected = [flat(on_host(subject, run.all())) for run in runs]
    wrong: list[Any] = []
    barrier = threading.Barrier(len(runs))

    def work(k: int) -> None:
        try:
            with only_kernel(subject.kernel):  # a thread starts with a context of its own
                barrier.wait()
                for _ in range(5):
                    for a, b in zip(flat(on_host(subject, runs[k].all())), expected[k], strict=True):
                        assert np.array_equal(a, b)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(runs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("form", [list, tuple, "int32", "int64", "uint8"], ids=str)
@tagged("concrete")
def test_lengths_in_any_form(subject, form):
    case = cases.get(f"gru/{RICH}")
    run = Run(subject, case)
    expected = subject.host(run.call())
    run.lengths = form(case.lengths.tolist()) if callable(form) else subject.array(case.lengths.astype(form))
    subject.equal(run.call(), expected, "float64")
    run.lengths = case.lengths  # on the host
    subject.equal(run.call(), expected, "float64")
