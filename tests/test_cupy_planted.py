"""Errors planted into copies of the kernels for CuPy, each of which the contract's checks must catch there.

The machinery is that of `test_planted.py`. Where CuPy cannot run, nothing is here.
"""

import importlib
from typing import Any

import cases
import pytest
import subjects
import test_contract
from test_cupy_kernels import FUSED, NAME
from test_kernels import LENGTHS, WIDE
from test_planted import Plant, altered_source, another_polyrnn, under_test

FORWARD = ("every", "kernels/_fused.py", "FORWARD = ")
BACKWARD = ("every", "kernels/_fused.py", "BACKWARD = ")
LOOP = ("every", "kernels/_fused.py", "def forward")
LOOP_BACK = ("every", "kernels/_fused.py", "def backward")
DEVICE = ("every", "kernels/_fused.py", "PRELUDE = ")
RNN = ("rnn", "kernels/_cupy.py", "class RNN")
LSTM = ("lstm", "kernels/_cupy.py", "class LSTM")
GRU = ("gru", "kernels/_cupy.py", "class GRU")

TABLE = [
    # -- what the cells' steps are made of
    Plant(*DEVICE, "tanh(z * R(0.5)) * R(0.5) + R(0.5)", "tanh(z) * R(0.5) + R(0.5)"),
    Plant(*DEVICE, "return s * (1 - s);", "return s * (1 + s);"),
    Plant(*DEVICE, "return 1 - a * a;", "return 1 - a;"),
    Plant(*FORWARD, "* steps + s) * N", "* steps) * N"),
    Plant(*FORWARD, " + (b_hh ? b_hh[k * H + unit] : R(0))", ""),
    Plant(*FORWARD, "moves ? value : before(m);", "value;"),
    Plant(*FORWARD, "moves ? value : R(0);", "value;"),
    Plant(*FORWARD, "(m * T + t) * size + e] = a", "m * size + e] = a"),
    Plant(*FORWARD, "rows > 1 ? t + 1 : 0", "rows > 1 ? t : 0"),
    Plant(*BACKWARD, "+ (m == 0 ? product[e] : R(0))", ""),
    Plant(*BACKWARD, "dy.state[m].at ? d + dy", "dy.state[m].at ? dy"),
    Plant(*BACKWARD, "at[t * dy.state[m].step + e]", "at[e]"),
    Plant(*BACKWARD, "at[t * tape.part[m].step + e]", "at[e]"),
    Plant(*BACKWARD, "operand[k * size + e] = dq;", "operand[k * size + e] = dp;"),
    Plant(*BACKWARD, "drec[column] = dq;", "drec[column] = dp;"),
    Plant(*BACKWARD, "below(m, above(m));", "below(m, 0);"),
    Plant(*BACKWARD, "for (int k = 0; k < GATES; k++) gates(k, 0, 0);", ""),
    Plant(*BACKWARD, "if (valid && !valid[t * N + example])", "if (false)"),
    # -- the loop
    Plant(*LOOP, "pre, product, b_hh, moves", "pre, product, b_hh, None"),
    Plant(*LOOP, "cupy.dot(U, states[0, t % rows]", "cupy.dot(U, states[0, 0]"),
    Plant(*LOOP, "whole[0] = first", "whole[0] = 0"),
    Plant(*LOOP_BACK, "cupy.dot(U_T, operand", "cupy.dot(-U_T, operand"),
    Plant(*LOOP_BACK, "moves[start:end]", "moves[:steps]"),
    Plant(*LOOP_BACK, "d[start:end] for d in dy", "d[:steps] for d in dy"),
    Plant(*LOOP_BACK, "part[start:end] for part", "part[: end - start] for part"),
    Plant(*LOOP_BACK, "for t in reversed(range(steps))", "for t in range(steps)"),
    Plant(*LOOP_BACK, "name: total + grads[name]", "name: grads[name]"),
    Plant(*LOOP_BACK, "dstates[0] + product", "dstates[0]"),
    Plant(*LOOP_BACK, "dstates[0] + product", "product"),
    # -- RNN
    Plant(*RNN, "phi(p(0) + q(0))", "phi(p(0))"),
    Plant(*RNN, '"z > 0 ? z : R(0)"', '"z"'),
    Plant(*RNN, '"h > 0"', '"1"'),
    Plant(*RNN, '"d_tanh(h)"', '"1"'),
    Plant(*RNN, "const R h = part(1)", "const R h = part(0)"),
    Plant(*RNN, "dz = dh * d_phi(h)", "dz = dh"),
    Plant(*RNN, "below(0, 0)", "below(0, dh)"),
    Plant(*RNN, "rnn.Residual(states[0, :-1], states[0, 1:])", "rnn.Residual(states[0, 1:], states[0, 1:])"),
    # -- LSTM
    Plant(*LSTM, "sigmoid(z(1)), g = tanh(z(2))", "sigmoid(z(2)), g = tanh(z(1))"),
    Plant(*LSTM, "g = tanh(z(2))", "g = sigmoid(z(2))"),
    Plant(*LSTM, "c = f * c_prev + i * g", "c = f * c_prev + (1 - f) * g"),
    Plant(*LSTM, "tanh_c = tanh(c)", "tanh_c = c"),
    Plant(*LSTM, "h = o * tanh_c", "h = o * tanh(c_prev)"),
    Plant(*LSTM, "after(1, c)", "after(1, tanh_c)"),
    Plant(*LSTM, "leave(0, i)", "leave(0, f)"),
    Plant(*LSTM, "leave(4, tanh_c)", "leave(4, c)"),
    Plant(*LSTM, "dc = above(1) + dh", "dc = dh"),
    Plant(*LSTM, "dh * o * d_tanh(tanh_c)", "dh * o"),
    Plant(*LSTM, "dh * o * d_tanh(tanh_c)", "dh * d_tanh(tanh_c)"),
    Plant(*LSTM, "dz_i = dc * g * d_sigmoid(i)", "dz_i = dc * i * d_sigmoid(i)"),
    Plant(*LSTM, "dz_i = dc * g * d_sigmoid(i)", "dz_i = dc * g * d_tanh(i)"),
    Plant(*LSTM, "dz_f = dc * c_prev", "dz_f = dc"),
    Plant(*LSTM, "d_sigmoid(f)", "d_sigmoid(i)"),
    Plant(*LSTM, "dz_g = dc * i * d_tanh(g)", "dz_g = dc * i * d_sigmoid(g)"),
    Plant(*LSTM, "dz_g = dc * i", "dz_g = dc * f"),
    Plant(*LSTM, "dz_o = dh * tanh_c", "dz_o = dc * tanh_c"),
    Plant(*LSTM, "d_sigmoid(o)", "o"),
    Plant(*LSTM, "gates(0, dz_i, dz_i)", "gates(0, dz_f, dz_f)"),
    Plant(*LSTM, "gates(3, dz_o, dz_o)", "gates(3, dz_o, 0)"),
    Plant(*LSTM, "below(1, dc * f)", "below(1, dc)"),
    Plant(*LSTM, "below(1, dc * f)", "below(1, dc * i)"),
    Plant(*LSTM, "below(0, 0)", "below(0, dh)"),
    Plant(*LSTM, "lstm.Residual(states[0, :-1], states[1, :-1]", "lstm.Residual(states[0, :-1], states[1, 1:]"),
    # -- GRU
    Plant(*GRU, "late_bias = True", "late_bias = False"),
    Plant(*GRU, "r = sigmoid(p(0) + q(0))", "r = sigmoid(p(0))"),
    Plant(*GRU, "tanh(p(2) + r * q_n)", "tanh(r * (p(2) + q_n))"),
    Plant(*GRU, "(1 - z) * n + z * h_prev", "z * n + (1 - z) * h_prev"),
    Plant(*GRU, "leave(0, r)", "leave(0, z)"),
    Plant(*GRU, "leave(3, q_n)", "leave(3, r * q_n)"),
    Plant(*GRU, "dz = dh * (h_prev - n)", "dz = dh * (n - h_prev)"),
    Plant(*GRU, "dz = dh * (h_prev - n)", "dz = dh * h_prev"),
    Plant(*GRU, "da_n = dh * (1 - z)", "da_n = dh * z"),
    Plant(*GRU, "* d_tanh(n)", ""),
    Plant(*GRU, "dr = da_n * q_n", "dr = da_n * h_prev"),
    Plant(*GRU, "dq_n = da_n * r", "dq_n = da_n"),
    Plant(*GRU, "dr * d_sigmoid(r)", "dr * d_sigmoid(z)"),
    Plant(*GRU, "dz * d_sigmoid(z)", "dz"),
    Plant(*GRU, "gates(0, dp_r, dp_r)", "gates(0, dp_z, dp_r)"),
    Plant(*GRU, "gates(1, dp_z, dp_z)", "gates(1, dp_z, dp_r)"),
    Plant(*GRU, "gates(2, da_n, dq_n)", "gates(2, dq_n, dq_n)"),
    Plant(*GRU, "gates(2, da_n, dq_n)", "gates(2, da_n, da_n)"),
    Plant(*GRU, "below(0, dh * z)", "below(0, 0)"),
    Plant(*GRU, "below(0, dh * z)", "below(0, dh * (1 - z))"),
]

KINDS = {"rnn": ("rnn_tanh", "rnn_relu"), "lstm": ("lstm",), "gru": ("gru",), "every": ("rnn_relu", "lstm", "gru")}


def check(pr: Any, subject: subjects.Subject, kinds: tuple[str, ...]) -> None:
    """Several blocks of steps with lengths, against loops and differences; and a call without a tape."""
    with pr.use_kernels(NAME), pytest.MonkeyPatch.context() as patch:
        patch.setattr(pr.recurrence, "COLUMNS", 40)
        patch.setattr(importlib.import_module("polyrnn.kernels._fused"), "BLOCKS", 1)
        for kind in kinds:
            case, proof = cases.random_case(kind, WIDE, LENGTHS), cases.proof(kind, WIDE, LENGTHS)
            run = test_contract.Run(subject, case)
            test_contract.check_proof(run, proof)
            subject.close(run.call(), (proof.y, cases.packed(proof.state)), "forward", "float64")


@pytest.fixture(scope="module", autouse=True)
def _references() -> None:
    """What must come out is found on the library as it is, once."""
    for kind in KINDS["rnn"] + KINDS["lstm"] + KINDS["gru"] if FUSED else ():
        cases.proof(kind, WIDE, LENGTHS)


each = pytest.mark.parametrize("subject", [subjects.param(subject) for subject in FUSED], indirect=True)


@pytest.mark.parametrize("name", KINDS)
@each
def test_a_sound_copy_passes(subject, name):
    with another_polyrnn() as pr, under_test(pr):
        check(pr, subject, KINDS[name])


@pytest.mark.parametrize("plant", TABLE, ids=lambda p: f"{p.file}: {p.old} -> {p.new or 'nothing'}")
@each
def test_it_is_caught(subject, plant):
    with (
        another_polyrnn({plant.file: altered_source(plant)}) as pr,
        under_test(pr),
        pytest.raises(AssertionError),
    ):
        check(pr, subject, KINDS[plant.check])
