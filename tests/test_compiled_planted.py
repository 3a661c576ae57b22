"""Errors planted into the kernels that Numba compiles, each of which the contract's checks must catch.

The machinery is that of `test_planted.py`; the vectors are those of `simd_in_numpy.py`, so that nothing is compiled and
Numba need not be there. Tiles and vectors of other processors are run that way too.
"""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import Any

import cases
import numpy as np
import pytest
import simd_in_numpy
import subjects
import test_contract
import test_kernels
from test_planted import Plant, altered_source, another_polyrnn, kernels, under_test

NUMPY = subjects.ALL["numpy"]
NAME = "numpy numba"
HOME = "kernels/_numba/"


@pytest.fixture(scope="module", autouse=True)
def _references() -> None:
    """What must come out is found on the library as it is, once; what is kept of a copy would meet other tests."""
    for name in cases.NAMES:
        cases.expected(name)
    for kind in test_kernels.KINDS:
        wide = (kind, test_kernels.WIDE, test_kernels.LENGTHS)
        cases.random_case(*wide)
        cases.proof(*wide)


@contextlib.contextmanager
def emulated(changed: dict[str, str] | None = None, register: int = 16, rows: int = 2) -> Iterator[Any]:
    """A copy of the package whose compiled kernels run as they are written."""
    vectors = {
        HOME + "simd.py": simd_in_numpy.source(register, rows),
        HOME + "tile.py": simd_in_numpy.TILE,
        HOME + "build.py": simd_in_numpy.BUILD,
    }
    with another_polyrnn(vectors | (changed or {})) as pr, under_test(pr), pytest.MonkeyPatch.context() as patch:
        patch.setattr(pr.kernels, "_installed", lambda package: package in ("numpy", "numba"))
        patch.setattr(importlib.import_module("polyrnn.kernels._numba.kernels"), "_usable", lambda: True)
        # Memory begins as NaN. What allocations contain is chance: a number read before it is written shows itself, and
        # lanes behind the last unit, which are computed and thrown away, warn of nothing.
        loops, memory = (importlib.import_module(f"polyrnn.kernels.{name}") for name in ("_numba.loops", "_memory"))
        patch.setattr(loops, "place", lambda size: np.full(size + loops.LINE, 0xFF, np.uint8))
        patch.setattr(memory, "empty", not_a_number)
        yield pr


def not_a_number(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """As `numpy.empty`; all bits are set, which is a NaN of every width."""
    empty = np.empty(shape, dtype)
    empty.reshape(-1).view(np.uint8)[...] = 0xFF
    return empty


def results(pr: Any, *kinds: str) -> None:
    kernels(pr, *kinds, name=NAME)
    with pr.use_kernels(NAME), pytest.MonkeyPatch.context() as patch:
        home = "polyrnn.kernels._numba."
        patch.setattr(sys.modules[home + "kernels"], "OPERATIONS", 1)  # shared between threads
        patch.setattr(sys.modules[home + "kernels"], "CHUNK", 1)  # several stretches of backward
        for name in ("loops", "products"):
            patch.setattr(sys.modules[home + name], "DEPTH", 10)  # that do not end with a step
        patch.setattr(pr.recurrence, "COLUMNS", 40)
        with pr.use_kernels(NAME, threads=3):
            for kind in kinds:
                wide = (kind, test_kernels.WIDE, test_kernels.LENGTHS)
                test_contract.check_proof(test_contract.Run(NUMPY, cases.random_case(*wide)), cases.proof(*wide))


def accuracy(pr: Any) -> None:
    """Of tanh and sigmoid in both dtypes, over all that they may be given."""
    products = importlib.import_module("polyrnn.kernels._numba.products")
    for dtype, limit in ((np.float32, 4), (np.float64, 4)):
        x = np.concatenate([np.linspace(-50, 50, 4001), np.logspace(-30, 1, 500), -np.logspace(-30, 1, 500)])
        x = np.append(x.astype(dtype), np.asarray([np.inf, -np.inf], dtype))
        ulp, like = np.finfo(dtype).eps, dtype(0)
        with np.errstate(all="ignore"):
            found, sigmoid = products.tanh(x, like), products.sigmoid(x, like)
            exact = np.tanh(x.astype(np.float64))
            scale = np.maximum(np.abs(exact), np.finfo(dtype).tiny)
            assert np.max(np.abs(found - exact) / scale) <= limit * ulp
            assert np.max(np.abs(sigmoid - 1 / (1 + np.exp(-x.astype(np.float64))))) <= limit * ulp
            assert np.isnan(products.tanh(np.asarray([np.nan], dtype), like)).all()
            assert np.isnan(products.sigmoid(np.asarray([np.nan], dtype), like)).all()
        assert found.dtype == sigmoid.dtype == dtype


ALL = ("rnn_tanh", "rnn_relu", "lstm", "gru")
CHECKS = {
    "rnn": (lambda pr: results(pr, "rnn_tanh", "rnn_relu"),),
    "lstm": (lambda pr: results(pr, "lstm"),),
    "gru": (lambda pr: results(pr, "gru"),),
    "all": (lambda pr: results(pr, *ALL),),
    "accuracy": (accuracy,),
}

FUNCTIONS = ("accuracy", HOME + "products.py", "def rational_tanh")
PACKING = ("all", HOME + "products.py", "def blocks_of")
SUMS = ("all", HOME + "products.py", "def gather")
TABLE_OF = ("all", HOME + "steps.py", "def entry")
RNN = ("rnn", HOME + "steps.py", "def rnn_step(")
LSTM = ("lstm", HOME + "steps.py", "def lstm_step(")
GRU = ("gru", HOME + "steps.py", "def gru_step(")
LOOPS = ("all", HOME + "loops.py", "def project(")
CALLS = ("all", HOME + "loops.py", "def start_forward(")
BIASES = ("gru", HOME + "loops.py", "def start_forward(")
PYTHON = ("all", HOME + "kernels.py", "class Compiled")

TABLE = [
    # -- functions
    Plant(*FUNCTIONS, "3.503391054e-03", "3.504391054e-03"),
    Plant(*FUNCTIONS, "7.849946542e-07", "7.949946542e-07"),
    Plant(*FUNCTIONS, "most(least(x, 8.9), -8.9)", "least(x, 8.9)"),
    Plant(*FUNCTIONS, "1 / 720", "1 / 721"),
    Plant(*FUNCTIONS, "p = fma(p * r, r, r)", "p = fma(p, r, r)"),
    Plant(*FUNCTIONS, "fma(scale, p, scale - 1)", "scale * p + scale - 0.9999999999999"),
    Plant(*FUNCTIONS, "-1.9082149292705877e-10", "0.0"),
    Plant(*FUNCTIONS, "fma(rational_tanh(x * 0.5, like), 0.5, 0.5)", "fma(rational_tanh(x, like), 0.5, 0.5)"),
    Plant(*FUNCTIONS, "(e + 1) / (e + 2)", "e / (e + 2)"),
    # -- weights in panels, and products
    Plant(*PACKING, "(gate * units + first) * row_pitch", "gate * units * row_pitch"),
    Plant(*PACKING, "at = row + k * step", "at = row"),
    Plant(*PACKING, "row = weight.ctypes.data + gate * H", "row = weight.ctypes.data + 0 * H"),
    Plant(*PACKING, "row += weight.strides[0]", "row += 0"),
    Plant(*PACKING, "w + p * panel, start + p * BYTES, out", "w + p * panel, start, out"),
    Plant(*PACKING, "two_panels(p // 2, w", "two_panels(1, w"),
    Plant(*PACKING, "copy_rows(start, start_pitch, spare", "copy_rows(start, 0, spare"),
    Plant(
        *PACKING,
        "copy_rows(spare, BYTES, out, out_pitch, rows, count",
        "copy_rows(spare, BYTES, out, out_pitch, 1, count",
    ),
    Plant(*PACKING, "w + at * K", "w"),
    Plant(*PACKING, "row += some", "row += some + 1"),
    # -- sums over steps and examples
    Plant(*SUMS, "t, n = first // N, first % N", "t, n = first // N, 0"),
    Plant(*SUMS, "t, n = t + 1, 0", "n = 0"),
    Plant(*SUMS, "dz = tiles + gates[gate] * per_gate", "dz = tiles + gate * per_gate"),
    Plant(*SUMS, "dz += a_tile", "dz += 0"),
    Plant(*SUMS, "source += pitch", "source += 0"),
    Plant(*SUMS, "out += (DEPTH - depth) * ROWS * size", "pass"),
    Plant(*SUMS, "total = load(out + k * size, count, like)", "total = 0 * load(out + k * size, count, like)"),
    Plant(*SUMS, "total = total + load(dz + row", "total = total - load(dz + row"),
    # -- cells
    Plant(*TABLE_OF, "n * entry(table, which, OVER_N)", "0 * n"),
    Plant(*TABLE_OF, "entry(table, which, ORIGIN) == 0 or", "True or"),
    Plant(*TABLE_OF, "load(at(table, H, old, n) + offset, count, like), count", "h, count"),
    Plant(*TABLE_OF, "store(at(table, Y, t, n) + offset, zeros(like)", "store(at(table, Y, t, n) + offset, h"),
    Plant(*TABLE_OF, "d = d + load(at(table, above, t, n)", "d = load(at(table, above, t, n)"),
    Plant(*TABLE_OF, "d = d + load(at(table, above, t, n)", "d = d + 0 * load(at(table, above, t, n)"),
    Plant(*RNN, "most(a, 0) if kind == 1", "a if kind == 1"),
    Plant(*RNN, "dh * (1 - h * h)", "dh * (1 - h)"),
    Plant(*RNN, "where_positive(dh, h)", "dh"),
    Plant(*RNN, "dh = zeros(like)", "pass"),
    Plant(*LSTM, "f * c_prev + i * g", "f * c_prev + i"),
    Plant(*LSTM, "i, f = sigmoid", "f, i = sigmoid"),
    Plant(*LSTM, "c if runs else c_prev", "c"),
    Plant(*LSTM, "offset, o * tanh_c", "offset, o * c"),
    Plant(*LSTM, "store(kept + row, f", "store(kept + row, i"),
    Plant(*LSTM, "store(kept + 4 * row, tanh_c", "store(kept + 4 * row, c"),
    Plant(*LSTM, "dc = dc + dh * o * (1 - tanh_c * tanh_c)", "dc = dc + dh * o"),
    Plant(*LSTM, "dc = dc + dh * o", "dc = dh * o"),
    Plant(*LSTM, "dz_i = dc * g * i * (1 - i)", "dz_i = dc * g * (1 - i)"),
    Plant(*LSTM, "dz_f = dc * c_prev", "dz_f = dc"),
    Plant(*LSTM, "dz_g = dc * i * (1 - g * g)", "dz_g = dc * i * (1 - g)"),
    Plant(*LSTM, "dz_o = dh * tanh_c", "dz_o = dc * tanh_c"),
    Plant(*LSTM, "dc = dc * f", "dc = dc * i"),
    Plant(*LSTM, "dh = zeros(like)", "pass"),
    Plant(*LSTM, "store(dz + row, dz_f", "store(dz + row, dz_g"),
    Plant(*LSTM, "from_above(table, DC, DY_C", "from_above(table, DC, DY"),
    Plant(*GRU, "whole(pre + 2 * BYTES, like) + r * q", "r * (whole(pre + 2 * BYTES, like) + q)"),
    Plant(*GRU, "(1 - u) * new_memory + u * h_prev", "u * new_memory + (1 - u) * h_prev"),
    Plant(*GRU, "store(kept + 3 * row, q", "store(kept + 3 * row, r"),
    Plant(*GRU, "da_n = dh * (1 - u)", "da_n = dh * u"),
    Plant(*GRU, "(1 - new_memory * new_memory)", "1"),
    Plant(*GRU, "dq_n = da_n * r", "dq_n = da_n"),
    Plant(*GRU, "dp_r = da_n * q * r", "dp_r = da_n * r"),
    Plant(*GRU, "dh * (h_prev - new_memory)", "dh * h_prev"),
    Plant(*GRU, "dh = dh * u", "pass"),
    # -- loops
    Plant(*LOOPS, "at(table, X, start + t, first + n)", "at(table, X, start + t, n)"),
    Plant(*LOOPS, "at(table, X, start + t, first + n)", "at(table, X, t, first + n)"),
    Plant(*LOOPS, "(t, t + 1) if keep else (t % 2, (t + 1) % 2)", "(t, t + 1) if keep else (0, 1)"),
    Plant(*LOOPS, "h, pitch = at(table, H, old, n), entry", "h, pitch = at(table, H, old, first), entry"),
    Plant("gru", *LOOPS[1:], "b = recurrent_bias + block * apart * BYTES", "b = recurrent_bias"),
    Plant("gru", *LOOPS[1:], "over_time(gru_step, 3, 2)", "over_time(gru_step, 3, 3)"),
    Plant(*LOOPS, "range(end - 1, start - 1, -1)", "range(start, end)"),
    Plant(*LOOPS, "range(end - 1, start - 1, -1)", "range(end - 1, start, -1)"),
    Plant(
        "gru", *LOOPS[1:], "back_through_time(gru_step_backward, 1, 3)", "back_through_time(gru_step_backward, 0, 3)"
    ),
    Plant(*BIASES, "value if gate >= joint else value + other", "value + other"),
    Plant(*BIASES, "recurrent_bias + (block", "recurrent_bias + 0 * (block"),
    Plant(*CALLS, "inside = unit < units and b_ih.size > 0", "inside = False"),
    Plant(*CALLS, "pack_transposed(u, h_order", "pack_transposed(u, h_order[::-1]"),
    Plant(*CALLS, "pack_transposed(w, x_order", "pack_transposed(-w, x_order"),
    Plant(*CALLS, "put_whole(packed[2] + k * BYTES, zeros(like))", "put_whole(packed[2] + k * BYTES, zeros(like) + 1)"),
    Plant(*CALLS, "range((end - start - 1) // size, -1, -1)", "range((end - start - 1) // size, 0, -1)"),
    Plant(*CALLS, "stop = min((block + 1) * size * N, rows)", "stop = rows"),
    Plant(*CALLS, "db.ctypes.data + gate * row_bytes", "db.ctypes.data"),
    Plant("gru", *CALLS[1:], "add_products(tiles, h_gates", "add_products(tiles, x_gates"),
    Plant(*CALLS, "dz + first * pitch", "dz"),
    # -- Python's side
    Plant(*PYTHON, "own[0] = first.T", "own[0] = 0"),
    Plant(*PYTHON, "own[T if keep else T % 2].T", "own[T if keep else 0].T"),
    Plant(*PYTHON, 'db[x_gates], db[h_gates] = sums["bias_ih"]', 'db[x_gates], db[h_gates] = 1 + sums["bias_ih"]'),
    Plant("gru", *PYTHON[1:], "db[h_gates].reshape(-1)}", "db[x_gates].reshape(-1)}"),
    Plant("gru", *PYTHON[1:], "x_gates, h_gates = (1, 2, 0), (1, 2, 3)", "x_gates, h_gates = (1, 2, 0), (1, 2, 0)"),
    Plant("rnn", *PYTHON[1:], 'int(cell.nonlinearity == "relu")', "0"),
    Plant("lstm", *PYTHON[1:], "h[:-1], c[:-1]", "h[1:], c[:-1]"),
    Plant("lstm", *PYTHON[1:], "h[:-1], c[:-1]", "h[:-1], c[1:]"),
]


@pytest.mark.parametrize(("register", "rows"), [(16, 6), (16, 12), (32, 6), (64, 12)])
def test_vectors_of_all_widths(register, rows):
    with emulated(register=register, rows=rows) as pr:
        results(pr, *ALL)
        accuracy(pr)


@pytest.mark.parametrize("plant", TABLE, ids=lambda p: f"{p.file}: {p.old} -> {p.new or 'nothing'}")
def test_it_is_caught(plant):
    with emulated({plant.file: altered_source(plant)}) as pr:
        for check in CHECKS[plant.check]:
            try:
                check(pr)
            except AssertionError:
                return
    pytest.fail(f"nobody noticed: {plant}")
