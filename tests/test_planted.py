"""Errors planted into copies of the library, each of which the suite's own checks must catch.

A plant is a line of the table: a file, a place in it, what stands there and what is put instead. The whole package is
imported anew with the altered file, the tests of the other files are run on it, and one of them must fail. A line
whose text is no longer found is a failure too: the table must follow the code.
"""

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import cases
import numpy as np
import pytest
import stacks
import subjects
import test_activations
import test_contract
import test_functional
import test_kernels
import test_modules
import test_options
import test_pool
import test_stack
import test_variants
import variants
from oracle.stored import case

import polyrnn
from polyrnn.testing import TOLERANCES, largest_error

PACKAGE = Path(polyrnn.__file__).parent
NUMPY = subjects.ALL["numpy"]


class Plant(NamedTuple):
    check: str  # a key of CHECKS
    file: str
    after: str  # the first `old` after this text is meant
    old: str
    new: str


# ---- the table -------------------------------------------------------------------------------------------------

RNN = ("rnn", "cells/rnn.py", "class RNNCell")
LSTM = ("lstm", "cells/lstm.py", "class LSTMCell")
GRU = ("gru", "cells/gru.py", "class GRUCell")
BEFORE = ("gru_before", "cells/gru.py", "class GRUResetBeforeCell")
CELL = ("cells", "cells/_cell.py", "class Cell")
MASKED = ("masked", "cells/_cell.py", "class Held(Wrapped)")
ACTIVATIONS = ("cells", "activations.py", "import")
FORWARD = ("blocks", "recurrence.py", "class _Reference")
BACKWARD = ("blocks", "recurrence.py", "def moves")
LAYERS = ("layers", "_pure.py", "def over_time")
DEEP = ("stack", "_pure.py", "def inward")
MASKS = ("drop_rate", "stack.py", "class _Source")
SOURCE = ("stack", "stack.py", "class _Source")
LEARNED = ("learned", "_pure.py", "def backward")
STACK = ("stack", "stack.py", "def forward")
STACK_BACK = ("stack", "stack.py", "def backward")
EXPECTED = ("cells/_cell.py", "class Expected(Wrapped)")
PROJECTED = ("projection", "cells/lstm.py", "class ProjectedLSTMCell")
EMBEDDING = ("embedding", "modules.py", "class Embedding")
LINEAR = ("linear", "modules.py", "class Linear")
DROPOUT = ("dropout", "modules.py", "class Dropout")
POOL = ("pool", "pooling.py", "def _over_time")
POOL_BACK = ("pool", "pooling.py", "def backward")
STATELESS = ("modules", "_module.py", "class Stateless")
SEQUENTIAL = ("sequential", "modules.py", "class Sequential(Module)")
ENTROPY = ("losses", "losses.py", "def _softmax_cross_entropy")
SQUARES = ("losses", "losses.py", "def _mean_squared_error")
KERNEL = ("kernels", "kernels/_in_place.py", "class InPlace")
KERNEL_PARTS = ("kernels", "kernels/_numpy.py", "def _halve")
PROJECTION = ("kernels", "kernels/_in_place.py", "class _Projection")
KERNEL_RNN = ("kernel_rnn", "kernels/_numpy.py", "class RNN(InPlace)")
KERNEL_LSTM = ("kernel_lstm", "kernels/_numpy.py", "class LSTM(InPlace)")
KERNEL_GRU = ("kernel_gru", "kernels/_numpy.py", "class GRU(InPlace)")
TEXTBOOK = ("textbook", "_textbook.py", "class Textbook")
VLSTM = ("lstm_variant", "cells/lstm_variant.py", "class LSTMVariantCell")
VLSTM_BACK = ("lstm_variant", "cells/lstm_variant.py", "def step_backward")
VGRU = ("gru_variant", "cells/gru_variant.py", "class GRUVariantCell")
VGRU_BACK = ("gru_variant", "cells/gru_variant.py", "def step_backward")
VGRU_SUMS = ("gru_variant", "cells/gru_variant.py", "def weight_gradients")
VRNN = ("rnn_variant", "cells/rnn.py", "class RNNVariantCell")
PARTS = ("parts", "cells/_parts.py", "def clip(")
NORM = ("parts", "cells/_parts.py", "def normalize(")
NORM_BACK = ("parts", "cells/_parts.py", "def normalize_backward(")
ONNX = ("activations", "activations.py", "# ---- those of ONNX")

TABLE = [
    # -- cells: forward
    Plant(*RNN, 'params["weight_hh"] @ self', 'params["weight_hh"].mT @ self'),
    Plant(*RNN, "h = phi(xp, z)", "h = phi(xp, pre)"),
    Plant(*RNN, "Residual(h_prev, h)", "Residual(h, h)"),
    Plant(*LSTM, "z_i, z_f, z_g, z_o = blocks(z, 4)", "z_i, z_f, z_o, z_g = blocks(z, 4)"),
    Plant(*LSTM, "sigmoid(xp, z_f)", "sigmoid(xp, z_f + 1)"),
    Plant(*LSTM, "c = f * c_prev + i * g", "c = f * c_prev + (1 - f) * g"),
    Plant(*LSTM, "tanh_c = tanh(xp, c)", "tanh_c = c"),
    Plant(*LSTM, "h = o * tanh_c", "h = o * tanh(xp, c_prev)"),
    Plant(*LSTM, "h_prev, c_prev = state", "c_prev, h_prev = state"),
    Plant(*LSTM, "return (h, c), Residual(h_prev", "return (h, c), Residual(h"),
    Plant(*LSTM, "Residual(h_prev, c_prev", "Residual(h_prev, c"),
    Plant(*GRU, 'return params.get("bias_ih")', "return Cell.projected_bias(self, xp, params)"),
    Plant(*GRU, 'q = q + params["bias_hh"][..., None] if "bias_hh" in params else q', "q = q + 0"),
    Plant(*GRU, "p_r, p_z, p_n = blocks(pre, 3)", "p_z, p_r, p_n = blocks(pre, 3)"),
    Plant(*GRU, "n = tanh(xp, p_n + r * q_n)", "n = tanh(xp, r * (p_n + q_n))"),
    Plant(*GRU, "h = (1 - z) * n + z * h_prev", "h = z * n + (1 - z) * h_prev"),
    Plant(*GRU, "Residual(h_prev, r, z, n, q_n)", "Residual(h_prev, z, r, n, q_n)"),
    Plant(*BEFORE, "v = r * h\n", "v = h\n"),
    Plant(*BEFORE, "n = tanh(xp, p_n + U_n @ v)", "n = tanh(xp, p_n + r * (U_n @ h_prev))"),
    Plant(*BEFORE, "new = (1 - z) * n + z * h_prev", "new = n + z * h_prev"),
    Plant(*BEFORE, "return Cell.projected_bias(self, xp, params)", 'return params.get("bias_ih")'),
    Plant(*BEFORE, "Residual(h_prev, r, z, n, v)", "Residual(h_prev, r, z, n, h_prev)"),
    # -- cells: backward, line by line
    Plant(*RNN, "dz = dh * derivative(xp, residual.h)", "dz = dh"),
    Plant(*RNN, "derivative(xp, residual.h)", "derivative(xp, residual.h_prev)"),
    Plant(*RNN, 'params["weight_hh"].mT @ dz', 'params["weight_hh"] @ dz'),
    Plant(*RNN, "return dz, dz, (dh_prev,)", "return dz, dz, (xp.zeros_like(dh_prev),)"),
    Plant(*RNN, "return dz, dz, (dh_prev,)", "return dz, dz, (dh_prev + dh,)"),
    Plant(*LSTM, "dc = dc + dh * o * tanh_derivative(xp, tanh_c)", "dc = dh * o * tanh_derivative(xp, tanh_c)"),
    Plant(*LSTM, "dc = dc + dh * o * tanh_derivative(xp, tanh_c)", "dc = dc + dh * o"),
    Plant(*LSTM, "dc = dc + dh * o * tanh_derivative(xp, tanh_c)", "dc = dc + dh * tanh_derivative(xp, tanh_c)"),
    Plant(*LSTM, "dc = dc + dh * o * tanh_derivative(xp, tanh_c)", "dc = dc + 0 * dh"),
    Plant(*LSTM, "dz_i = dc * g * sigmoid_derivative(xp, i)", "dz_i = dc * i * sigmoid_derivative(xp, i)"),
    Plant(*LSTM, "dz_i = dc * g * sigmoid_derivative(xp, i)", "dz_i = dc * g * tanh_derivative(xp, i)"),
    Plant(*LSTM, "dz_f = dc * c_prev", "dz_f = dc"),
    Plant(*LSTM, "sigmoid_derivative(xp, f)", "sigmoid_derivative(xp, i)"),
    Plant(*LSTM, "dz_g = dc * i * tanh_derivative(xp, g)", "dz_g = dc * i * sigmoid_derivative(xp, g)"),
    Plant(*LSTM, "dz_g = dc * i", "dz_g = dc * f"),
    Plant(*LSTM, "dz_o = dh * tanh_c", "dz_o = dc * tanh_c"),
    Plant(*LSTM, "dz_o = dh * tanh_c", "dz_o = dh"),
    Plant(*LSTM, "sigmoid_derivative(xp, o)", "o"),
    Plant(*LSTM, "(dz_i, dz_f, dz_g, dz_o)", "(dz_f, dz_i, dz_g, dz_o)"),
    Plant(*LSTM, "dc_prev = dc * f", "dc_prev = dc"),
    Plant(*LSTM, "dc_prev = dc * f", "dc_prev = dc * i"),
    Plant(*LSTM, 'params["weight_hh"].mT @ dz', '-params["weight_hh"].mT @ dz'),
    Plant(*LSTM, "(dh_prev, dc_prev)", "(dc_prev, dh_prev)"),
    Plant(*LSTM, "(dh_prev, dc_prev)", "(dh_prev, xp.zeros_like(dc_prev))"),
    Plant(*LSTM, "(dh_prev, dc_prev)", "(xp.zeros_like(dh_prev), dc_prev)"),
    Plant(*GRU, "dz = dh * (h_prev - n)", "dz = dh * (n - h_prev)"),
    Plant(*GRU, "dz = dh * (h_prev - n)", "dz = dh * h_prev"),
    Plant(*GRU, "da_n = dh * (1 - z)", "da_n = dh * z"),
    Plant(*GRU, "* tanh_derivative(xp, n)", ""),
    Plant(*GRU, "dr = da_n * q_n", "dr = da_n * h_prev"),
    Plant(*GRU, "dq_n = da_n * r", "dq_n = da_n"),
    Plant(*GRU, "dr * sigmoid_derivative(xp, r)", "dr * sigmoid_derivative(xp, z)"),
    Plant(*GRU, "dz * sigmoid_derivative(xp, z)", "dz"),
    Plant(*GRU, "dp = xp.concat((dp_r, dp_z, da_n)", "dp = xp.concat((dp_r, dp_z, dq_n)"),
    Plant(*GRU, "dq = xp.concat((dp_r, dp_z, dq_n)", "dq = xp.concat((dp_r, dp_z, da_n)"),
    Plant(*GRU, "dq = xp.concat((dp_r, dp_z, dq_n)", "dq = xp.concat((dp_z, dp_r, dq_n)"),
    Plant(*GRU, "dh_prev = dh * z + ", "dh_prev = "),
    Plant(*GRU, "dh_prev = dh * z + ", "dh_prev = dh * (1 - z) + "),
    Plant(*GRU, 'params["weight_hh"].mT @ dq', 'params["weight_hh"].mT @ dp'),
    Plant(*GRU, "return dp, dq, ", "return dq, dq, "),
    Plant(*GRU, "return dp, dq, ", "return dp, dp, "),
    Plant(*BEFORE, "dz = dh * (h_prev - n)", "dz = -dh * n"),
    Plant(*BEFORE, "da_n = dh * (1 - z)", "da_n = dh"),
    Plant(*BEFORE, "* tanh_derivative(xp, n)", ""),
    Plant(*BEFORE, "dv = U_n.mT @ da_n", "dv = U_n @ da_n"),
    Plant(*BEFORE, "dr = dv * self.dropped(xp, h_prev)", "dr = da_n * self.dropped(xp, h_prev)"),
    Plant(*BEFORE, "dr * sigmoid_derivative(xp, r)", "dr * r"),
    Plant(*BEFORE, "dz * sigmoid_derivative(xp, z)", "dz * sigmoid_derivative(xp, r)"),
    Plant(*BEFORE, "xp.concat((dp_rz, da_n)", "xp.concat((dp_rz, dv)"),
    Plant(*BEFORE, "self.dropped(xp, dv * r + ", "self.dropped(xp, dv + "),
    Plant(*BEFORE, "self.dropped(xp, dv * r + ", "self.dropped(xp, "),
    Plant(*BEFORE, "dh_prev = dh * z + ", "dh_prev = "),
    Plant(*BEFORE, " + U_rz.mT @ dp_rz", ""),
    Plant(*BEFORE, "over_steps(xp, dq_n, residuals.operand)", "over_steps(xp, dq_n, residuals.h_prev)"),
    Plant(*BEFORE, "over_steps(xp, dq_rz, h)", "over_steps(xp, dq_rz, residuals.operand)"),
    Plant(*BEFORE, "xp.concat((over_steps(xp, dq_rz, h), over", "xp.concat((0 * over_steps(xp, dq_rz, h), over"),
    # -- what the cells share
    Plant(*CELL, 'params["weight_ih"] @ columns(xp, x)', 'params["weight_ih"] @ columns(xp, x) * 1.001'),
    Plant(*CELL, "z if b is None else z + b[..., None]", "z"),
    Plant(*CELL, 'params["bias_ih"] + params["bias_hh"]', 'params["bias_ih"]'),
    Plant(*CELL, 'params["weight_ih"].mT @', '-params["weight_ih"].mT @'),
    Plant(*CELL, "over_steps(xp, dpre, x)", "over_steps(xp, drec, x)"),
    Plant(*CELL, "over_steps(xp, dpre, x)", "0 * over_steps(xp, dpre, x)"),
    Plant(*CELL, "db_ih = over_steps_and_examples(", "db_ih = 2 * over_steps_and_examples("),
    Plant(*CELL, "db_hh = db_ih if drec is dpre else over_steps_and_examples(xp, drec)", "db_hh = db_ih"),
    Plant(
        *CELL,
        "over_steps(xp, drec, self.dropped(xp, residuals.h_prev))",
        "over_steps(xp, drec[1:, ...], residuals.h_prev[:-1, ...])",
    ),
    Plant(
        *CELL,
        "over_steps(xp, drec, self.dropped(xp, residuals.h_prev))",
        "over_steps(xp, drec[:-1, ...], residuals.h_prev[1:, ...])",
    ),
    # -- sequences that have ended
    Plant(*MASKED, "state = tuple(_where(xp, m, a, b) for", "state = tuple(a for"),
    Plant(*MASKED, "state = tuple(_where(xp, m, a, b)", "state = tuple(_where(xp, m, a, 0 * b)"),
    Plant(*MASKED, "inside = tuple(_where(xp, m, d, zero) for m, d, zero in pairs)", "inside = dstate"),
    Plant(*MASKED, "tuple(a + b for a, b in zip(before, past, strict=True))", "before"),
    Plant(*MASKED, "past = tuple(_where(xp, m, zero, d) for", "past = tuple(d for"),
    # -- activations and their derivatives
    Plant(*ACTIVATIONS, "return 1 - a * a", "return 1 - a"),
    Plant(*ACTIVATIONS, "return s * (1 - s)", "return s * (1 + s)"),
    Plant(*ACTIVATIONS, "return xp.astype(a > 0, a.dtype)", "return xp.astype(a >= 0, a.dtype)"),
    Plant(*ACTIVATIONS, "return xp.where(x > 0, x, xp.zeros_like(x))", "return xp.where(x > 0, x, 0.01 * x)"),
    Plant(*ACTIVATIONS, "return xp.tanh(x * 0.5) * 0.5 + 0.5", "return xp.clip(x * 0.25 + 0.5, 0, 1)"),
    # -- the recurrence, over blocks of steps
    Plant(*FORWARD, "y if valid is None else xp.where(valid, y, xp.zeros_like(y))", "y"),
    Plant(*FORWARD, "state, (y, residuals) = backend.scan_blocks", "_, (y, residuals) = backend.scan_blocks"),
    Plant(*BACKWARD, "d + above for", "above for"),
    Plant(*BACKWARD, "d if above is None else d + above", "d"),
    Plant(*BACKWARD, "(residuals, dy), reverse=True)", "(residuals, dy))"),
    Plant(*BACKWARD, "total + wide(xp, grads[name])", "wide(xp, grads[name])"),
    Plant(*BACKWARD, "dpre if drec is None else drec", "dpre"),
    Plant(*BACKWARD, "dstate, (dpre, drec) = backend.scan", "_, (dpre, drec) = backend.scan"),
    Plant(*BACKWARD, "(x, residuals, dy), size, reverse=True)", "(x, residuals, dy), size)"),
    # -- the layers' doors
    Plant(*LAYERS, "inner = clean(xp, valid, inward(layer, xp, x))", "inner = inward(layer, xp, x)"),
    Plant(*LAYERS, "else clean(xp, noise.valid, inward(layer, xp, dy))", "else inward(layer, xp, dy)"),
    Plant(*LAYERS, "for part in states[0]]", "for part in reversed(states[0])]"),
    Plant(*LAYERS, "return list(zip(*found, strict=True))", "return list(zip(*found[::-1], strict=True))"),
    Plant(*DEEP, "xp.permute_dims(x, (1, 2, 0)) if", "xp.permute_dims(x, (1, 2, 0))[::-1, ...] if"),
    Plant(*DEEP, "found.append([part[k, ...].mT for k in each])", "found.append([part[0, ...].mT for k in each])"),
    Plant(*DEEP, "xp.stack(each, axis=axis) for", "xp.stack(each[::-1], axis=axis) for"),
    Plant(*SOURCE, "return (self.given[name], None)", 'return (self.given["dropout_l0"], None)'),
    Plant(*LEARNED, "xp.sum(of_each, axis=0)", "xp.mean(of_each, axis=0)"),
    Plant(*LEARNED, "for name, start in zip(names, starts", "for name, start in zip(names, starts[::-1]"),
    Plant(*MASKS, "fold(self.xp, self.key, number, self.device)", "fold(self.xp, self.key, 0, self.device)"),
    # -- depth, directions, dropout between layers
    Plant(*STACK, "x = _drop(backend, between[-1], x, plan.dropout)", "pass"),
    Plant(*STACK, "states[len(ends)]", "states[0]"),
    Plant(*STACK, "valid=turn(xp, valid)", "valid=valid"),
    Plant(*STACK, "own, turn(xp, x), start", "own, x, start"),
    Plant(*STACK, "outputs.append(turn(xp, y))", "outputs.append(y)"),
    Plant(*STACK, "[y.mT for y in outputs]", "[y.mT for y in outputs[::-1]]"),
    Plant(*STACK_BACK, "end = dstates[d]", "end = dstates[0]"),
    Plant(*STACK_BACK, "dy[..., rows : rows + size, :]", "dy[..., :size, :]"),
    Plant(*STACK_BACK, "turn(xp, dy[..., rows : rows + size, :])", "dy[..., rows : rows + size, :]"),
    Plant(*STACK_BACK, "else dx + turn(xp, dx_d)", "else dx + dx_d"),
    Plant(*STACK_BACK, "turn(xp, dx_d) if dx is None else dx + turn(xp, dx_d)", "turn(xp, dx_d)"),
    Plant(*STACK_BACK, "_drop(backend, tape.between[k - 1], dx, plan.dropout) if k else dx", "dx"),
    Plant(*STACK_BACK, "tape.between[k - 1], dx", "tape.between[0], dx"),
    Plant(*STACK_BACK, "x * (1 / (1 - rate))", "x"),
    # -- dropout of states, zoneout, segments, ensembles, gradients of each example
    Plant("state_dropout", "cells/_cell.py", "def dropped", "h * self.kept", "h"),
    Plant(
        "state_dropout",
        "cells/_cell.py",
        "def recurrent_gradients",
        "self.dropped(xp, residuals.h_prev)",
        "residuals.h_prev",
    ),
    Plant("state_dropout", *LSTM[1:], "@ self.dropped(xp, h_prev)", "@ h_prev"),
    Plant("state_dropout", *LSTM[1:], 'self.dropped(xp, params["weight_hh"].mT @ dz)', 'params["weight_hh"].mT @ dz'),
    Plant("state_dropout", *RNN[1:], "@ self.dropped(xp, h_prev)", "@ h_prev"),
    Plant("state_dropout", *RNN[1:], 'self.dropped(xp, params["weight_hh"].mT @ dz)', 'params["weight_hh"].mT @ dz'),
    Plant("state_dropout", *GRU[1:], "@ self.dropped(xp, h_prev)", "@ h_prev"),
    Plant("state_dropout", *GRU[1:], 'self.dropped(xp, params["weight_hh"].mT @ dq)', 'params["weight_hh"].mT @ dq'),
    Plant("state_dropout", *GRU[1:], "h = (1 - z) * n + z * h_prev", "h = (1 - z) * n + z * self.dropped(xp, h_prev)"),
    Plant("state_dropout", *BEFORE[1:], "h = self.dropped(xp, h_prev)", "h = h_prev"),
    Plant("state_dropout", *BEFORE[1:], "dr = dv * self.dropped(xp, h_prev)", "dr = dv * h_prev"),
    Plant(
        "state_dropout",
        *BEFORE[1:],
        "self.dropped(xp, dv * r + U_rz.mT @ dp_rz)",
        "dv * r + self.dropped(xp, U_rz.mT @ dp_rz)",
    ),
    Plant(
        "state_dropout",
        *BEFORE[1:],
        "        h = self.dropped(xp, residuals.h_prev)\n",
        "        h = residuals.h_prev\n",
    ),
    Plant("input_dropout", *SOURCE[1:], "* (1 / (1 - rate))", "* 1.0"),
    Plant("input_dropout", *STACK[1:], "x if inputs[-1] is None else x * inputs[-1]", "x"),
    Plant("input_dropout", *STACK[1:], "x if output is None else x * output", "x"),
    Plant("input_dropout", *STACK_BACK[1:], "dx if tape.inputs[k] is None else dx * tape.inputs[k]", "dx"),
    Plant("input_dropout", *STACK_BACK[1:], "dy if dy is None or tape.output is None else dy * tape.output", "dy"),
    Plant(
        "zoneout",
        *MASKED[1:],
        "past = tuple(_where(xp, m, zero, d) for m, d, zero in pairs)",
        "past = tuple(z for _, _, z in pairs)",
    ),
    Plant(
        "zoneout",
        "recurrence.py",
        "def moves",
        "move = masks[m] if masks else None",
        "move = masks[m][::-1] if masks else None",
    ),
    Plant("zoneout", "recurrence.py", "def moves", "move if valid is None else move & valid", "move"),
    Plant(
        "zoneout", "recurrence.py", "def moves", "self.options.zoneout[m], getattr", "self.options.zoneout[0], getattr"
    ),
    Plant("zoneout", "recurrence.py", "def moves", ", steps).mT", ", None).mT"),
    Plant("zoneout", *STACK[1:], "turn(xp, mask) for mask in noise.moves", "mask for mask in noise.moves"),
    Plant("zoneout", *STACK[1:], "steps=turn(xp, noise.steps)", "steps=noise.steps"),
    Plant("expected", *EXPECTED, "r * b + (1 - r) * a", "r * a + (1 - r) * b"),
    Plant("expected", *EXPECTED, "tuple((1 - r) * d for", "tuple(d for"),
    Plant("expected", *EXPECTED, "tuple(a + r * d for", "tuple(a for"),
    Plant(
        "segments",
        "recurrence.py",
        "def forward",
        "return after, (y, tree_map(lambda part: part[None, ...], state))",
        "return after, (y, tree_map(lambda part: part[None, ...], after))",
    ),
    Plant(
        "segments",
        "recurrence.py",
        "def backward",
        "run.backward(inputs, residuals, dy, dstate, sums)\n        return",
        "run.backward(inputs, residuals, dy, dstate, run.zeros(x.shape[-1]))\n        return",
    ),
    Plant("segments", "recurrence.py", "def steps_per_segment", "return -(-remat // block) * block", "return remat"),
    Plant(
        "segments",
        "backends/_eager.py",
        "def scan_blocks",
        "a[start // size, ...] for a in marks",
        "a[0, ...] for a in marks",
    ),
    Plant(
        "segments",
        "kernels/_in_place.py",
        "class InPlace",
        "name: total.copy() for name, total in sums.items()",
        "name: 0 * total for name, total in sums.items()",
    ),
    Plant("ensembles", *CELL[1:], "z + b[..., None]", "z + b[:1, ..., None]"),
    Plant(
        "ensembles",
        *DEEP[1:],
        "found.append([part[:, k, ...].mT for k in each])",
        "found.append([part[:, 0, ...].mT for k in each])",
    ),
    Plant("ensembles", *LEARNED[1:], "dx = xp.sum(dx, axis=1)", "dx = dx[:, 0, ...]"),
    Plant(
        "ensembles",
        "_recurrent.py",
        "def draw",
        "members = [self._draw_member(rng) for _ in range(self.ensemble)]",
        "members = [self._draw_member(rng)] * self.ensemble",
    ),
    Plant(
        "each",
        "recurrence.py",
        "def weight_gradients",
        "apart(self.noise.kept[None, ...])[0, ...]",
        "apart(self.noise.kept[None, ...])[0, ...] * 0 + 1",
    ),
    Plant(
        "each", "recurrence.py", "def weight_gradients", "drec = dpre if same else tree_map(apart, drec)", "drec = dpre"
    ),
    Plant("each", *LEARNED[1:], "grads[name] = of_each if each else", "grads[name] = of_each[::-1, ...] if each else"),
    Plant(
        "truncated",
        "truncated.py",
        "def _cut",
        "None if whole is None else whole[part]",
        "None if whole is None else whole[:k]",
    ),
    Plant(
        "truncated", "truncated.py", "def function", "xp.where(count > 0, value * count, xp.zeros_like(value))", "value"
    ),
    Plant("truncated", "truncated.py", "def function", "g / weight", "g"),
    Plant(
        "truncated",
        "truncated.py",
        "def function",
        "piece.x, piece.targets, state, piece",
        "piece.x, piece.targets, None, piece",
    ),
    # -- the projection
    Plant(*PROJECTED, 'params["weight_hr"] @ m, c', 'params["weight_hr"] @ (m + c), c'),
    Plant(*PROJECTED, '(params["weight_hr"] @ m, c), residual', '(params["weight_hr"] @ m, m), residual'),
    Plant(*PROJECTED, 'dm = params["weight_hr"].mT @ dh', 'dm = -params["weight_hr"].mT @ dh'),
    Plant(*PROJECTED, "(dm, dc))", "(dm, 0 * dc))"),
    Plant(*PROJECTED, "over_steps(xp, drec, residuals.o * residuals.tanh_c)", "over_steps(xp, drec, residuals.o)"),
    # -- what stands around a layer
    Plant(*STATELESS, "x = clean(found.xp, valid, x)", "x = x + 0"),
    Plant(*STATELESS, "return clean(found.xp, valid, y), None", "return y, None"),
    Plant(*STATELESS, "clean(found.xp, tape.valid, dy))", "dy)"),
    Plant(*STATELESS, "clean(found.xp, tape.valid, dx)", "dx + 1 if dx is not None else dx"),
    Plant(*EMBEDDING, 'xp.take(params["weight"], flat', 'xp.take(params["weight"], last - flat'),
    Plant(*EMBEDDING, "scatter_add(rows, kept", "scatter_add(rows * 2, kept"),
    Plant("embedding", "backends/_numpy.py", "def scatter_add", "total[rows] = ", "total[rows] += 0 * "),
    Plant(
        "embedding",
        "backends/_numpy.py",
        "def scatter_add",
        "numpy.add.reduceat(values[order]",
        "numpy.add.reduceat(values",
    ),
    Plant(*LINEAR, 'y = y + params["bias"][..., None, :] if self.bias else y', "y = y + 0"),
    Plant(*LINEAR, 'flat @ params["weight"].mT', '-flat @ params["weight"].mT'),
    Plant(*LINEAR, "flat.mT @ kept", "flat.mT @ kept / kept.shape[0]"),
    Plant(*LINEAR, "xp.sum(wide(xp, flat), axis=-2)", "xp.mean(wide(xp, flat), axis=-2)"),
    Plant(*LINEAR, 'xp.reshape(flat @ params["weight"]', 'xp.reshape(2 * flat @ params["weight"]'),
    Plant(*DROPOUT, "return {}, self._drop(backend.xp, kept, dy)", "return {}, dy"),
    Plant(*DROPOUT, "x * (1 / (1 - self.p))", "x"),
    Plant(*DROPOUT, "x * (1 / (1 - self.p))", "x * (1 - self.p)"),
    Plant(*DROPOUT, "xp.where(keep, x *", "xp.where(~keep, x *"),
    Plant(*DROPOUT, "x.shape, self.p, device)", "x.shape, 1 - self.p, device)"),
    Plant(*SEQUENTIAL, "dy = grads.x", "dy = grads.x if grads.x is None else -grads.x"),
    Plant(*SEQUENTIAL, "module.backward(tape.tapes[k], dy, states[k])", "module.backward(tape.tapes[k], dy)"),
    Plant(
        *SEQUENTIAL, "_masks.fold(backend_of(part or x).xp, seed, k)", "_masks.fold(backend_of(part or x).xp, seed, 0)"
    ),
    Plant(*SEQUENTIAL, "module.step(part, x, before)", "module.step(part, x)"),
    Plant("classifier", "modules.py", "def _run", "lengths = None if module.pools else lengths", "lengths = None"),
    # -- pooling over time
    Plant(*POOL, "dtype=xp.bool, device=device) if valid is None else valid", "dtype=xp.bool, device=device)"),
    Plant(*POOL, "xp.max(xp.where(at, x, -float", "xp.max(xp.where(at, x, 0 * float"),
    Plant(*POOL, 'xp.max(xp.where(at, x, -float("inf"))', 'xp.min(xp.where(at, x, float("inf"))'),
    Plant(*POOL, "xp.where(xp.any(at, axis=axis, keepdims=True), largest, 0.0)", "largest"),
    Plant(*POOL, "at & (x == largest)", "at & (x <= largest)"),
    Plant(*POOL, "at & (x == largest)", "x == largest"),
    Plant(
        *POOL, "at & (number == xp.max(xp.where(at, number, -1)", "at & (number == xp.min(xp.where(at, number, steps)"
    ),
    Plant(*POOL, "xp.max(xp.where(at, number, -1)", "xp.max(xp.where(at, number, number)"),
    Plant(*POOL, "at = at & (number == ", "at = (number == xp.astype(at, xp.int32) * "),
    Plant(*POOL, "xp.sum(xp.where(at, x, 0.0), axis=axis)", "xp.sum(x, axis=axis)"),
    Plant(*POOL, "/ _count(xp, at, x.dtype, axis), at", "/ _count(xp, at, x.dtype, axis), xp.ones_like(at)"),
    Plant(*POOL, "/ _count(xp, at, x.dtype, axis), at", "/ _count(xp, at, x.dtype, axis), at[::-1, ...]"),
    Plant(*POOL, "/ _count(xp, at, x.dtype, axis), at", "/ steps, at"),
    Plant(*POOL_BACK, "dy / _count(xp, at, dy.dtype, axis)", "dy / at.shape[axis]"),
    Plant(*POOL_BACK, "dy / _count(xp, at, dy.dtype, axis)", "dy"),
    Plant(*POOL_BACK, "dy / _count(xp, at, dy.dtype, axis)", "dy * _count(xp, at, dy.dtype, axis)"),
    Plant(*POOL_BACK, "xp.where(at, xp.expand_dims(share, axis=axis), 0.0)", "at * xp.expand_dims(share, axis=axis)"),
    Plant(*POOL_BACK, "xp.where(at, xp", "xp.where(xp.flip(at, axis=axis), xp"),
    Plant(*POOL_BACK, "xp.where(at, xp", "xp.where(xp.ones_like(at), xp"),
    Plant("pool", "pooling.py", "def _count", ", 1)", ", 2)"),
    Plant("pool", "pooling.py", "def _count", "xp.maximum(xp.sum(", "xp.maximum(xp.max("),
    # -- the kernels for NumPy
    Plant(*KERNEL, "np.copyto(new, was, where=stands)", "np.copyto(new, was, where=~stands)"),
    Plant(*KERNEL, "np.copyto(new, was, where=stands)", "pass"),
    Plant(*KERNEL, "d += next(upstream)", "next(upstream)"),
    Plant(*KERNEL, "iter(upstream[::-1])", "iter(upstream)"),
    Plant(*KERNEL, "dU, dW = drec @ columns[: H + 1].T, dpre @", "dU, dW = drec @ columns[: H + 1].T, drec @"),
    Plant(*KERNEL, "dU, dW = drec @ columns[: H + 1].T", "dU, dW = dpre @ columns[: H + 1].T"),
    Plant(*KERNEL, 'grads["weight_ih"] += dW', 'grads["weight_ih"] -= dW'),
    Plant(*KERNEL, 'grads["weight_hh"] += dU', 'grads["weight_hh"] = dU'),
    Plant(*KERNEL, 'grads["bias_hh"] += dU[:, H]', 'grads["bias_hh"] += dW[:, 0]'),
    Plant(*KERNEL, 'grads["bias_ih"] += dW[:, 0]', 'grads["bias_ih"] += dW[:, 1]'),
    Plant(*KERNEL, "[...] = residual.h_prev.transpose", "[...] = -residual.h_prev.transpose"),
    Plant(*KERNEL, "np.ones((H + 1 + I,", "np.zeros((H + 1 + I,"),
    Plant(*KERNEL, "b[:, None], W), axis=1)", "-b[:, None], W), axis=1)"),
    Plant(*KERNEL, "operands[:, H] = 1", "operands[:, H] = 0"),
    Plant(*KERNEL, "h[0] = h[k]", "h[0] = h[k - 1]"),
    Plant(*KERNEL, "np.matmul(dpre.T, W,", "np.matmul(-dpre.T, W,"),
    Plant(*KERNEL, "np.copyto(y, 0, where=~valid)", "pass"),
    Plant(*KERNEL, "row if row.any() else None", "row if row.all() else None"),
    Plant(*KERNEL, "or whole_valid[start:end].all() else", "or whole_valid[start:end].any() else"),
    Plant(
        *KERNEL,
        "old = row[: len(states)] if keep else tuple(s.copy() for s",
        "old = row[: len(states)] if True else tuple(s.copy() for s",
    ),
    Plant(
        *PROJECTION,
        "W if b is None else np.concatenate((W, b[:, None]), axis=1)",
        "W if b is None else np.concatenate((W, 2 * b[:, None]), axis=1)",
    ),
    Plant(*PROJECTION, "self.inputs[:k] = x\n", "self.inputs[:k] = -x\n"),
    Plant(*KERNEL_PARTS, "np.dot(U_T, dz, out=dh)", "np.dot(U_T, -dz, out=dh)"),
    Plant(*KERNEL_PARTS, "np.multiply(dh, stands[0], out=spare)", "spare[...] = 0"),
    Plant(*KERNEL_PARTS, "copy[:rows] *= 0.5", "copy[:rows] *= 0.25"),
    Plant(*KERNEL_PARTS, "a += half", "a += half * half"),
    Plant(*KERNEL_PARTS, "np.subtract(1, out, out=out)", "out -= 1"),
    Plant(*KERNEL_PARTS, "out *= s", "out *= out"),
    Plant(*KERNEL_RNN, "np.maximum(z, 0, out=h)", "np.abs(z, out=h)"),
    Plant(*KERNEL_RNN, "np.greater(residual.h, 0, out=A", "np.greater_equal(residual.h, 0, out=A"),
    Plant(*KERNEL_RNN, "A *= valid", "pass"),
    Plant(*KERNEL_RNN, "A *= dh", "A *= abs(dh)"),
    Plant(*KERNEL_LSTM, "np.multiply(f, c_prev, out=c)", "np.multiply(i, c_prev, out=c)"),
    Plant(*KERNEL_LSTM, "np.multiply(o, tanh_c, out=h)", "np.multiply(o, c, out=h)"),
    Plant(*KERNEL_LSTM, "_, c_prev, h, c, gates, sigmoids, i, f,", "_, c_prev, h, c, gates, sigmoids, f, i,"),
    Plant(*KERNEL_LSTM, "A[:, 0] *= g", "A[:, 0] *= i"),
    Plant(*KERNEL_LSTM, "A[:, 1] *= c_prev", "A[:, 1] *= g"),
    Plant(*KERNEL_LSTM, "A[:, 2] *= i", "A[:, 2] *= f"),
    Plant(*KERNEL_LSTM, "A[:, 3] *= tanh_c", "pass"),
    Plant(*KERNEL_LSTM, "into_c *= o", "pass"),
    Plant(*KERNEL_LSTM, "A *= valid[:, None]", "pass"),
    Plant(*KERNEL_LSTM, "into_c *= valid", "pass"),
    Plant(*KERNEL_LSTM, "np.where(valid, f, np.ones((), f.dtype))", "f"),
    Plant(*KERNEL_LSTM, "dc += into_c", "pass"),
    Plant(*KERNEL_LSTM, "A[3] *= dh", "A[3] *= dc"),
    Plant(*KERNEL_LSTM, "dc *= f", "pass"),
    Plant(*KERNEL_GRU, "b[: 2 * H] += b_hh[: 2 * H]", "pass"),
    Plant(*KERNEL_GRU, "np.add(z[two:], fixed.bias, out=q_n)", "q_n[...] = z[two:]"),
    Plant(*KERNEL_GRU, "n += pre[two:]", "n -= pre[two:]"),
    Plant(*KERNEL_GRU, "h *= update", "h *= r"),
    Plant(*KERNEL_GRU, "(_, r, z, n, q_n)", "(_, z, r, n, q_n)"),
    Plant(*KERNEL_GRU, "np.subtract(1, z, out=dp_n)", "np.subtract(2, z, out=dp_n)"),
    Plant(*KERNEL_GRU, "dp_n *= dq_n", "pass"),
    Plant(*KERNEL_GRU, "np.multiply(dp_n, r, out=dq_n)", "dq_n[...] = dp_n"),
    Plant(*KERNEL_GRU, "dr *= q_n", "pass"),
    Plant(*KERNEL_GRU, "dr *= dp_n", "pass"),
    Plant(*KERNEL_GRU, "dz *= h_prev - n", "dz *= h_prev + n"),
    Plant(*KERNEL_GRU, "A *= valid[:, None]", "pass"),
    Plant(*KERNEL_GRU, "np.where(valid, z, np.ones((), z.dtype))", "z"),
    Plant(*KERNEL_GRU, "np.multiply(dh, z, out=spare)", "spare[...] = dh"),
    Plant(*KERNEL_GRU, "(flat[H : 3 * H], flat[:H])", "(flat[H : 3 * H], flat[3 * H :])"),
    # -- losses
    Plant(*ENTROPY, "largest - xp.take_along_axis", "-xp.take_along_axis"),
    Plant(*ENTROPY, "exponentials * (share / total)", "exponentials * share"),
    Plant(*ENTROPY, "- xp.astype(chosen, logits.dtype) * share", ""),
    Plant(*ENTROPY, "value, share = xp.sum(entries) * weight, weight", "value, share = xp.sum(entries) * weight, 1"),
    Plant(*ENTROPY, "xp.sum(xp.where(mask, entries, 0.0)) * weight", "xp.mean(xp.where(mask, entries, 0.0))"),
    Plant(*ENTROPY, "(xp.astype(mask, logits.dtype) * weight)", "(xp.ones_like(entries) * weight)"),
    Plant(*SQUARES, "difference * (2 * weight)", "difference * weight"),
    Plant(*SQUARES, "difference = prediction - target", "difference = target - prediction"),
    Plant(*SQUARES, "xp.sum(difference * difference) * weight", "xp.sum(difference * difference) * weight / 2"),
    # -- the textbook functions
    Plant(*TEXTBOOK, '(grads["weight_hh"], grads["weight_ih"])', '(-grads["weight_hh"], grads["weight_ih"])'),
    Plant(
        *TEXTBOOK,
        '{"weight_ih": both[:, n_a:], "weight_hh": both[:, :n_a]}',
        '{"weight_ih": both[:, :-n_a], "weight_hh": both[:, -n_a:]}',
    ),
    Plant(*TEXTBOOK, 'f"d{b}": grads["bias_ih"][rows, None]', 'f"d{b}": -grads["bias_ih"][rows, None]'),
    Plant(*TEXTBOOK, "r.h_prev, r.c_prev, r.f, r.i, r.g, r.o", "r.h_prev, r.c_prev, r.i, r.f, r.g, r.o"),
    Plant(*TEXTBOOK, "tanh_c=xp.tanh(c_next)", "tanh_c=c_next"),
    Plant(*TEXTBOOK, "i=it, f=ft", "i=ft, f=it"),
    Plant(*TEXTBOOK, '"Wu": -parameters["Wu"]', '"Wu": parameters["Wu"]'),
    Plant(*TEXTBOOK, '"dWu": -result["dWu"]', '"dWu": result["dWu"]'),
    Plant(*TEXTBOOK, '"dbu": -result["dbu"]', '"dbu": result["dbu"]'),
    Plant(*TEXTBOOK, "z=1 - ut", "z=ut"),
    Plant(*TEXTBOOK, "operand=rt * a_prev", "operand=a_prev"),
    Plant(*TEXTBOOK, "residual.c_prev[1:, ...], end[1][None, ...]", "residual.c_prev[:-1, ...], end[1][None, ...]"),
    Plant(*TEXTBOOK, "dz = through if dz is None else dz + through", "dz = through"),
    Plant(*TEXTBOOK, "xp.tensordot(dz, a, axes=((0, 2), (0, 2)))", "xp.tensordot(dz, cache[1], axes=((0, 2), (0, 2)))"),
    Plant(*TEXTBOOK, "xp.sum(dz, axis=(0, 2))", "xp.mean(dz, axis=(0, 2))"),
    Plant(*TEXTBOOK, "da if above[0] is None else above[0] + da", "da"),
    Plant(*TEXTBOOK, "da = parameters[W].mT @ dz", "da = -parameters[W].mT @ dz"),
    Plant(*TEXTBOOK, "parameters[W] @ a + parameters[b]", "parameters[W] @ a"),
    Plant("textbook", "activations.py", "def softmax_backward", "dy - xp.sum(dy * y", "dy - 0 * xp.sum(dy * y"),
    Plant("textbook", "activations.py", "def softmax_backward", "return y * (", "return ("),
    Plant("textbook", "activations.py", "def softmax(", "return e / xp.sum(e, axis=axis, keepdims=True)", "return e"),
    # -- the cells' variants: LSTM
    Plant(*VLSTM, "smooth = all(phi.analytic for phi in self.activations)", "smooth = True"),
    Plant(*VLSTM, "return smooth and self.clip is None and self.cell_clip is None", "return smooth"),
    Plant(*VLSTM, "h_prev, c_prev = state", "c_prev, h_prev = state"),
    Plant(*VLSTM, "s_i, s_f, s_g, s_o, s_h = self.activations", "s_f, s_i, s_g, s_o, s_h = self.activations"),
    Plant(*VLSTM, "s_i, s_f, s_g, s_o, s_h = self.activations", "s_i, s_f, s_g, s_h, s_o = self.activations"),
    Plant(*VLSTM, "s_i, s_f, s_g, s_o, s_h = self.activations", "s_i, s_f, s_h, s_o, s_g = self.activations"),
    Plant(*VLSTM, "p_i, p_f, p_o = self._peepholes(params)", "p_f, p_i, p_o = self._peepholes(params)"),
    Plant(*VLSTM, "p_i, p_f, p_o = self._peepholes(params)", "p_i, p_o, p_f = self._peepholes(params)"),
    Plant(
        *VLSTM, 'xp, pre, params.get("weight_layer_norm_ih")', 'xp, 1 + pre * pre, params.get("weight_layer_norm_ih")'
    ),
    Plant(*VLSTM, 'pre, params.get("weight_layer_norm_ih")', 'pre, params.get("weight_layer_norm_hh")'),
    Plant(*VLSTM, 'h_prev), params.get("weight_layer_norm_hh")', 'h_prev), params.get("weight_layer_norm_ih")'),
    Plant(*VLSTM, "self.dropped(xp, h_prev)", "h_prev"),
    Plant(*VLSTM, 'params["bias_ih"] + params["bias_hh"]', 'params["bias_ih"]'),
    Plant(*VLSTM, "a_i, a_f, a_g, a_o = self._four(a)", "a_i, a_f, a_o, a_g = self._four(a)"),
    Plant(*VLSTM, "z_f = clip(xp, add_scaled(a_f, p_f, c_prev), self.clip)", "z_f = add_scaled(a_f, p_f, c_prev)"),
    Plant(*VLSTM, "add_scaled(a_f, p_f, c_prev), self.clip", "add_scaled(a_f, p_f, -c_prev), self.clip"),
    Plant(*VLSTM, "add_scaled(a_f, p_f, c_prev), self.clip", "a_f, self.clip"),
    Plant(*VLSTM, "z_g = clip(xp, a_g, self.clip)", "z_g = a_g"),
    Plant(*VLSTM, "z_g = clip(xp, a_g, self.clip)", "z_g = clip(xp, add_scaled(a_g, p_f, c_prev), self.clip)"),
    Plant(*VLSTM, "clip(xp, add_scaled(a_i, p_i, c_prev), self.clip)", "add_scaled(a_i, p_i, c_prev)"),
    Plant(*VLSTM, "clip(xp, add_scaled(a_i, p_i, c_prev), self.clip)", "clip(xp, a_i, self.clip)"),
    Plant(*VLSTM, "i = 1 - f if self.coupled", "i = f if self.coupled"),
    Plant(*VLSTM, "c = clip(xp, f * c_prev + i * g, self.cell_clip)", "c = f * c_prev + i * g"),
    Plant(*VLSTM, "f * c_prev + i * g, self.cell_clip", "f * c_prev + i * g, self.clip"),
    Plant(*VLSTM, "f * c_prev + i * g, self.cell_clip", "i * c_prev + f * g, self.cell_clip"),
    Plant(*VLSTM, "z_o = clip(xp, add_scaled(a_o, p_o, c), self.clip)", "z_o = add_scaled(a_o, p_o, c)"),
    Plant(*VLSTM, "add_scaled(a_o, p_o, c), self.clip", "add_scaled(a_o, p_o, c_prev), self.clip"),
    Plant(*VLSTM, "add_scaled(a_o, p_o, c), self.clip", "a_o, self.clip"),
    Plant(*VLSTM, 'normalize(xp, c, params.get("', 'normalize(xp, c_prev, params.get("'),
    Plant(*VLSTM, 'n + params["bias_layer_norm_c"][..., None] if', "n if"),
    Plant(*VLSTM, "u = s_h(xp, n + ", "u = s_h(xp, c + "),
    Plant(*VLSTM, 'params["weight_hr"] @ (o * u) if', 'params["weight_hr"] @ u if'),
    Plant(*VLSTM, "else o * u  # (6)", "else o * n  # (6)"),
    Plant(*VLSTM, "return (h, c), Residual", "return (h, n), Residual"),
    Plant(*VLSTM, "else (z_i, z_f, z_g, z_o)", "else (z_f, z_i, z_g, z_o)"),
    Plant(*VLSTM, "else (z_i, z_f, z_g, z_o)", "else (z_i, z_f, z_o, z_g)"),
    Plant(*VLSTM, "Residual(h_prev, c_prev", "Residual(h, c_prev"),
    Plant(*VLSTM, "Residual(h_prev, c_prev", "Residual(h_prev, c"),
    Plant(*VLSTM, "o, c, u, norm_ih, norm_hh, norm_c)", "o, c, u, norm_hh, norm_ih, norm_c)"),
    Plant(*VLSTM, "(None, *blocks(a, 3)) if", "(None, *blocks(a, 3)[::-1]) if"),
    Plant(*VLSTM, "tuple([None, *parts] if", "tuple([None, *parts[::-1]] if"),
    # -- its backward, line by line
    Plant(*VLSTM_BACK, "dh, dc = dstate", "dc, dh = dstate"),
    Plant(*VLSTM_BACK, "s_i, s_f, s_g, s_o, s_h = self.activations", "s_f, s_i, s_g, s_o, s_h = self.activations"),
    Plant(*VLSTM_BACK, "s_i, s_f, s_g, s_o, s_h = self.activations", "s_i, s_f, s_o, s_g, s_h = self.activations"),
    Plant(*VLSTM_BACK, "p_i, p_f, p_o = self._peepholes(params)", "p_f, p_i, p_o = self._peepholes(params)"),
    Plant(*VLSTM_BACK, 'dm = params["weight_hr"].mT @ dh', 'dm = -params["weight_hr"].mT @ dh'),
    Plant(*VLSTM_BACK, "dm * u * s_o.derivative(xp, o)", "dm * s_o.derivative(xp, o)"),
    Plant(*VLSTM_BACK, "dm * u * s_o.derivative(xp, o)", "dm * u * s_o.derivative(xp, u)"),
    Plant(
        *VLSTM_BACK,
        "clip_backward(xp, dm * u * s_o.derivative(xp, o), z_o, self.clip)",
        "dm * u * s_o.derivative(xp, o)",
    ),
    Plant(*VLSTM_BACK, "s_o.derivative(xp, o), z_o,", "s_o.derivative(xp, o), z_f,"),
    Plant(*VLSTM_BACK, "dn = dm * o * s_h.derivative(xp, u)", "dn = dm * s_h.derivative(xp, u)"),
    Plant(*VLSTM_BACK, "dn = dm * o * s_h.derivative(xp, u)", "dn = dm * o"),
    Plant(*VLSTM_BACK, "s_h.derivative(xp, u)", "s_h.derivative(xp, c)"),
    Plant(*VLSTM_BACK, "dc = dc + normalize_backward", "dc = normalize_backward"),
    Plant(*VLSTM_BACK, 'normalize_backward(xp, dn, params.get("weight_layer_norm_c"), norm_c)', "dn"),
    Plant(*VLSTM_BACK, "clip_backward(xp, add_scaled(dc, p_o, da_o), c, self.cell_clip)", "add_scaled(dc, p_o, da_o)"),
    Plant(*VLSTM_BACK, "add_scaled(dc, p_o, da_o), c", "dc, c"),
    Plant(*VLSTM_BACK, "add_scaled(dc, p_o, da_o), c", "add_scaled(dc, p_o, da_o), c_prev"),
    Plant(
        *VLSTM_BACK,
        "clip_backward(xp, add_scaled(dc, p_o, da_o), c, self.cell_clip)",
        "add_scaled(clip_backward(xp, dc, c, self.cell_clip), p_o, da_o)",
    ),
    Plant(*VLSTM_BACK, "dc * g, dc * c_prev, dc * i", "dc * i, dc * c_prev, dc * g"),
    Plant(*VLSTM_BACK, "dc * g, dc * c_prev, dc * i", "dc * g, dc * c, dc * i"),
    Plant(*VLSTM_BACK, "dc * g, dc * c_prev, dc * i", "dc * g, dc * c_prev, dc * (1 - i)"),
    Plant(*VLSTM_BACK, "df = df - di if self.coupled else df", "df = df"),
    Plant(*VLSTM_BACK, "df = df - di if self.coupled else df", "df = df + di if self.coupled else df"),
    Plant(*VLSTM_BACK, "df * s_f.derivative(xp, f), z_f", "df, z_f"),
    Plant(*VLSTM_BACK, "df * s_f.derivative(xp, f), z_f", "df * s_f.derivative(xp, f), z_g"),
    Plant(*VLSTM_BACK, "dg * s_g.derivative(xp, g), z_g", "dg, z_g"),
    Plant(*VLSTM_BACK, "dg * s_g.derivative(xp, g), z_g", "dg * s_g.derivative(xp, g), z_f"),
    Plant(*VLSTM_BACK, "add_scaled(dc * f, p_f, da_f)", "dc * f"),
    Plant(*VLSTM_BACK, "add_scaled(dc * f, p_f, da_f)", "add_scaled(dc * i, p_f, da_f)"),
    Plant(*VLSTM_BACK, "add_scaled(dc * f, p_f, da_f)", "add_scaled(dc * f, p_f, da_g)"),
    Plant(*VLSTM_BACK, "xp.concat((da_f, da_g, da_o)", "xp.concat((da_g, da_f, da_o)"),
    Plant(*VLSTM_BACK, "di * s_i.derivative(xp, i), z_i", "di, z_i"),
    Plant(*VLSTM_BACK, "di * s_i.derivative(xp, i), z_i", "di * s_i.derivative(xp, i), z_f"),
    Plant(*VLSTM_BACK, "dc_prev = add_scaled(dc_prev, p_i, da_i)", "dc_prev = dc_prev"),
    Plant(*VLSTM_BACK, "(da_i, da_f, da_g, da_o)", "(da_i, da_f, da_o, da_g)"),
    Plant(*VLSTM_BACK, 'normalize_backward(xp, da, params.get("weight_layer_norm_ih"), norm_ih)', "da"),
    Plant(*VLSTM_BACK, 'params.get("weight_layer_norm_ih"), norm_ih)', 'params.get("weight_layer_norm_ih"), norm_hh)'),
    Plant(*VLSTM_BACK, 'normalize_backward(xp, da, params.get("weight_layer_norm_hh"), norm_hh)', "da"),
    Plant(*VLSTM_BACK, 'params.get("weight_layer_norm_hh"), norm_hh)', 'params.get("weight_layer_norm_ih"), norm_hh)'),
    Plant(*VLSTM_BACK, 'self.dropped(xp, params["weight_hh"].mT @ dq)', 'params["weight_hh"].mT @ dq'),
    Plant(*VLSTM_BACK, 'params["weight_hh"].mT @ dq', 'params["weight_hh"].mT @ dp'),
    Plant(*VLSTM_BACK, "return dp, Recurrent(dh, da, dq, dn)", "return da, Recurrent(dh, da, dq, dn)"),
    Plant(*VLSTM_BACK, "Recurrent(dh, da, dq, dn)", "Recurrent(-dh, da, dq, dn)"),
    Plant(*VLSTM_BACK, "Recurrent(dh, da, dq, dn)", "Recurrent(dh, dp, dq, dn)"),
    Plant(*VLSTM_BACK, "(dh_prev, dc_prev)", "(dh_prev, 0 * dc_prev)"),
    Plant(*VLSTM_BACK, "over_steps(xp, dpre, x)", "over_steps(xp, da, x)"),
    Plant(*VLSTM_BACK, "recurrent_gradients(xp, r, dq)", "recurrent_gradients(xp, r, da)"),
    Plant(*VLSTM_BACK, "db = over_steps_and_examples(xp, da)", "db = over_steps_and_examples(xp, dq)"),
    Plant(*VLSTM_BACK, "over_steps(xp, dh, r.o * r.u)", "over_steps(xp, dh, r.o * r.c)"),
    Plant(*VLSTM_BACK, "[da_f * r.c_prev, da_o * r.c]", "[da_f * r.c, da_o * r.c]"),
    Plant(*VLSTM_BACK, "[da_f * r.c_prev, da_o * r.c]", "[da_f * r.c_prev, da_o * r.c_prev]"),
    Plant(*VLSTM_BACK, "[da_f * r.c_prev, da_o * r.c]", "[da_o * r.c, da_f * r.c_prev]"),
    Plant(*VLSTM_BACK, "[da_i * r.c_prev, *products]", "[*products, da_i * r.c_prev]"),
    Plant(*VLSTM_BACK, "wide(xp, da) * r.norm_ih.values", "wide(xp, dpre) * r.norm_ih.values"),
    Plant(*VLSTM_BACK, "wide(xp, da) * r.norm_hh.values", "wide(xp, da) * r.norm_ih.values"),
    Plant(*VLSTM_BACK, "wide(xp, dn) * r.norm_c.values", "wide(xp, dn) * r.c"),
    Plant(*VLSTM_BACK, '{"bias_layer_norm_c": over_steps_and_examples(xp, dn)}', '{"bias_layer_norm_c": xp.sum(dh)}'),
    # -- the cells' variants: GRU
    Plant(*VGRU, "return self.clip is None and all(", "return all("),
    Plant(*VGRU, "s_r, s_z, s_n = self.activations", "s_z, s_r, s_n = self.activations"),
    Plant(*VGRU, "s_r, s_z, s_n = self.activations", "s_r, s_n, s_z = self.activations"),
    Plant(*VGRU, "h = self.dropped(xp, h_prev)", "h = h_prev"),
    Plant(*VGRU, '"weight_layer_norm_ih"), (2, 1))', '"weight_layer_norm_ih"), (1, 2))'),
    Plant(*VGRU, 'p = p + params["bias_ih"][..., None]', "p = p + 0"),
    Plant(*VGRU, 'split_candidate(params["bias_hh"], -1)', 'split_candidate(params["bias_ih"], -1)'),
    Plant(*VGRU, "p_r, p_z, p_n = blocks(p, 3)", "p_z, p_r, p_n = blocks(p, 3)"),
    Plant(*VGRU, "normalize(xp, U_rz @ h, gain_rz)", "normalize(xp, U_rz @ h_prev, gain_rz)"),
    Plant(*VGRU, "q if b_rz is None else q + b_rz[..., None]", "q"),
    Plant(*VGRU, "clip(xp, p_r + q_r, self.clip)", "p_r + q_r"),
    Plant(*VGRU, "clip(xp, p_z + q_z, self.clip)", "p_z + q_z"),
    Plant(*VGRU, "r, z = s_r(xp, a_r), s_z(xp, a_z)", "z, r = s_r(xp, a_r), s_z(xp, a_z)"),
    Plant(*VGRU, "h if self.reset_after else r * h)", "h)"),
    Plant(*VGRU, "h if self.reset_after else r * h)", "h if self.reset_after else r * h_prev)"),
    Plant(*VGRU, "q_n if b_n is None else q_n + b_n[..., None]", "q_n"),
    Plant(
        *VGRU,
        "a_n = clip(xp, p_n + (r * q_n if self.reset_after else q_n), self.clip)",
        "a_n = p_n + (r * q_n if self.reset_after else q_n)",
    ),
    Plant(*VGRU, "p_n + (r * q_n if self.reset_after else q_n)", "p_n + q_n"),
    Plant(*VGRU, "new = (1 - z) * n + z * h_prev", "new = z * n + (1 - z) * h_prev"),
    Plant(*VGRU, "new = (1 - z) * n + z * h_prev", "new = (1 - z) * n + z * h"),
    Plant(*VGRU, "else (a_r, a_z, a_n)", "else (a_z, a_r, a_n)"),
    Plant(*VGRU, "else (a_r, a_z, a_n)", "else (a_r, a_n, a_z)"),
    Plant(*VGRU, "Residual(h_prev, a", "Residual(new, a"),
    # -- its backward, line by line
    Plant(*VGRU_BACK, "s_r, s_z, s_n = self.activations", "s_z, s_r, s_n = self.activations"),
    Plant(*VGRU_BACK, "s_r, s_z, s_n = self.activations", "s_r, s_n, s_z = self.activations"),
    Plant(*VGRU_BACK, "dh * (h_prev - n)", "dh * (n - h_prev)"),
    Plant(
        *VGRU_BACK,
        "clip_backward(xp, dh * (h_prev - n) * s_z.derivative(xp, z), a_z, self.clip)",
        "dh * (h_prev - n) * s_z.derivative(xp, z)",
    ),
    Plant(*VGRU_BACK, "* s_z.derivative(xp, z)", ""),
    Plant(*VGRU_BACK, "dh * (1 - z) * s_n", "dh * z * s_n"),
    Plant(*VGRU_BACK, "* s_n.derivative(xp, n)", ""),
    Plant(*VGRU_BACK, "s_n.derivative(xp, n), a_n", "s_n.derivative(xp, n), a_z"),
    Plant(*VGRU_BACK, "dq_n = da_n * r if self.reset_after else da_n", "dq_n = da_n"),
    Plant(*VGRU_BACK, "dq_n = da_n * r if self.reset_after else da_n", "dq_n = da_n * r"),
    Plant(*VGRU_BACK, "du_n = normalize_backward(xp, dq_n, gain_n, norm_n)", "du_n = dq_n"),
    Plant(*VGRU_BACK, "normalize_backward(xp, dq_n, gain_n, norm_n)", "normalize_backward(xp, da_n, gain_n, norm_n)"),
    Plant(*VGRU_BACK, "dv = U_n.mT @ du_n", "dv = U_n @ du_n"),
    Plant(*VGRU_BACK, "dv = U_n.mT @ du_n", "dv = U_n.mT @ dq_n"),
    Plant(*VGRU_BACK, "dr = da_n * q_n if", "dr = da_n * h_prev if"),
    Plant(*VGRU_BACK, "dv * self.dropped(xp, h_prev)", "dv * h_prev"),
    Plant(*VGRU_BACK, "dv * self.dropped(xp, h_prev)", "dv"),
    Plant(*VGRU_BACK, "dr * s_r.derivative(xp, r)", "dr"),
    Plant(*VGRU_BACK, "s_r.derivative(xp, r), a_r", "s_r.derivative(xp, r), a_z"),
    Plant(*VGRU_BACK, "dq_rz = xp.concat((da_r, da_z)", "dq_rz = xp.concat((da_z, da_r)"),
    Plant(*VGRU_BACK, "xp.concat((dq_rz, da_n), axis=-2), xp", "xp.concat((dq_rz, dq_n), axis=-2), xp"),
    Plant(*VGRU_BACK, "xp.concat((dq_rz, dq_n)", "xp.concat((dq_rz, da_n)"),
    Plant(*VGRU_BACK, 'normalize_backward(xp, dp, params.get("weight_layer_norm_ih"), norm_ih, (2, 1))', "dp"),
    Plant(*VGRU_BACK, "du_rz = normalize_backward(xp, dq_rz, gain_rz, norm_rz)", "du_rz = dq_rz"),
    Plant(*VGRU_BACK, "dh_prev = dh * z + ", "dh_prev = "),
    Plant(
        *VGRU_BACK,
        "self.dropped(xp, (dv if self.reset_after else dv * r) + U_rz.mT @ du_rz)",
        "(dv if self.reset_after else dv * r) + U_rz.mT @ du_rz",
    ),
    Plant(*VGRU_BACK, "(dv if self.reset_after else dv * r) + U_rz", "dv + U_rz"),
    Plant(*VGRU_BACK, "(dv if self.reset_after else dv * r) + U_rz", "dv * r + U_rz"),
    Plant(*VGRU_BACK, " + U_rz.mT @ du_rz", ""),
    Plant(*VGRU_BACK, "U_rz.mT @ du_rz", "U_rz.mT @ dq_rz"),
    Plant(*VGRU_BACK, "return dw, Recurrent(dp, dq", "return dp, Recurrent(dp, dq"),
    Plant(*VGRU_BACK, "return dw, Recurrent(dp, dq", "return dw, Recurrent(dq, dp"),
    Plant(*VGRU_BACK, "xp.concat((du_rz, du_n)", "xp.concat((du_rz, dq_n)"),
    Plant(*VGRU_SUMS, "over_steps(xp, dpre, x)", "over_steps(xp, dp, x)"),
    Plant(*VGRU_SUMS, "recurrent_gradients(xp, residuals, du)", "recurrent_gradients(xp, residuals, dq)"),
    Plant(*VGRU_SUMS, '"bias_ih": over_steps_and_examples(xp, dp)', '"bias_ih": over_steps_and_examples(xp, dq)'),
    Plant(*VGRU_SUMS, '"bias_hh": over_steps_and_examples(xp, dq)', '"bias_hh": over_steps_and_examples(xp, du)'),
    Plant(*VGRU_SUMS, "wide(xp, dp) * residuals", "wide(xp, dpre) * residuals"),
    Plant(*VGRU_SUMS, "wide(xp, dq) * values", "wide(xp, dp) * values"),
    Plant(*VGRU_SUMS, "wide(xp, dq) * values", "wide(xp, du) * values"),
    Plant(
        *VGRU_SUMS,
        "residuals.norm_rz.values, residuals.norm_n.values",
        "-residuals.norm_rz.values, residuals.norm_n.values",
    ),
    Plant(*VGRU_SUMS, "if self.reset_after:", "if True:"),
    Plant(*VGRU_SUMS, "h = self.dropped(xp, residuals.h_prev)", "h = residuals.h_prev"),
    Plant(*VGRU_SUMS, "over_steps(xp, du_n, residuals.r * h)", "over_steps(xp, du_n, residuals.z * h)"),
    Plant(*VGRU_SUMS, "over_steps(xp, du_rz, h)", "over_steps(xp, du_rz, residuals.r * h)"),
    # -- the cells' variants: RNN
    Plant(*VRNN, "return self.clip is None and self.phi.analytic", "return self.phi.analytic"),
    Plant(*VRNN, "self.dropped(xp, h_prev), self.clip)", "h_prev, self.clip)"),
    Plant(*VRNN, "self.dropped(xp, h_prev), self.clip)", "self.dropped(xp, h_prev), None)"),
    Plant(*VRNN, "h = self.phi(xp, z)", "h = self.phi(xp, pre)"),
    Plant(*VRNN, "VariantResidual(h_prev, h, ", "VariantResidual(h, h, "),
    Plant(*VRNN, "VariantResidual(h_prev, h, None if self.clip is None else z)", "VariantResidual(h_prev, h, h)"),
    Plant(*VRNN, "dh * self.phi.derivative(xp, residual.h)", "dh"),
    Plant(*VRNN, "self.phi.derivative(xp, residual.h)", "self.phi.derivative(xp, residual.h_prev)"),
    Plant(*VRNN, "residual.h), residual.z, self.clip)", "residual.h), residual.z, None)"),
    Plant(*VRNN, 'self.dropped(xp, params["weight_hh"].mT @ dz)', 'params["weight_hh"].mT @ dz'),
    Plant(*VRNN, 'params["weight_hh"].mT @ dz', 'params["weight_hh"] @ dz'),
    # -- their parts
    Plant(*PARTS, "xp.clip(a, -limit, limit)", "xp.clip(a, 0, limit)"),
    Plant(*PARTS, "xp.clip(a, -limit, limit)", "xp.clip(a, -limit, 2 * limit)"),
    Plant(*PARTS, "xp.where(xp.abs(z) < limit, dz, xp.zeros_like(dz))", "dz"),
    Plant(*PARTS, "xp.abs(z) < limit", "xp.abs(z) <= limit"),
    Plant(*PARTS, "xp.abs(z) < limit", "z < limit"),
    Plant(*PARTS, "xp.abs(z) < limit", "z > -limit"),
    Plant(*PARTS, "xp.abs(z) < limit", "xp.abs(z) < 1"),
    Plant(*PARTS, "a + vector[..., None] * b", "a - vector[..., None] * b"),
    Plant(*NORM, "part - xp.mean(part, axis=-2, keepdims=True)", "part"),
    Plant(*NORM, "part - xp.mean(part, axis=-2, keepdims=True)", "part - xp.mean(part, axis=-1, keepdims=True)"),
    Plant(*NORM, "xp.sqrt(xp.mean(centred * centred, axis=-2", "xp.sqrt(xp.mean(part * part, axis=-2"),
    Plant(*NORM, "keepdims=True) + EPSILON)", "keepdims=True) + 2 * EPSILON)"),
    Plant(
        *NORM,
        "1 / xp.sqrt(xp.mean(centred * centred, axis=-2, keepdims=True) + EPSILON)",
        "1 / (xp.sqrt(xp.mean(centred * centred, axis=-2, keepdims=True)) + EPSILON)",
    ),
    Plant(*NORM, "values.append(centred * scale)", "values.append(centred)"),
    Plant(*NORM, "scales.append(scale)", "scales.append(scale * scale)"),
    Plant(*NORM, "wide(xp, gain)[..., None] * normal.values", "normal.values"),
    Plant("parts", "cells/_parts.py", "import", "EPSILON = 1e-5", "EPSILON = 1e-6"),
    Plant(*NORM_BACK, "dv_all = wide(xp, gain)[..., None] * wide(xp, dn)", "dv_all = wide(xp, dn)"),
    Plant(*NORM_BACK, "(dv - mean - v * slope) * scale", "(dv - v * slope) * scale"),
    Plant(*NORM_BACK, "(dv - mean - v * slope) * scale", "(dv - mean) * scale"),
    Plant(*NORM_BACK, "(dv - mean - v * slope) * scale", "(dv - mean - v * slope)"),
    Plant(*NORM_BACK, "(dv - mean - v * slope) * scale", "dv * scale"),
    Plant(*NORM_BACK, "(dv - mean - v * slope) * scale", "(dv - mean + v * slope) * scale"),
    Plant(*NORM_BACK, "xp.mean(dv * v, axis=-2, keepdims=True)", "xp.mean(dv, axis=-2, keepdims=True)"),
    # -- the activations of ONNX
    Plant(*ONNX, "return x * alpha + beta", "return x * alpha - beta"),
    Plant(*ONNX, "return xp.full_like(a, alpha)", "return a"),
    Plant(*ONNX, "return xp.where(x > 0, x, x * alpha)", "return xp.where(x < 0, x, x * alpha)"),
    Plant(*ONNX, "xp.ones_like(a), xp.full_like(a, alpha))", "xp.full_like(a, alpha), xp.ones_like(a))"),
    Plant(*ONNX, "xp.ones_like(a), xp.full_like(a, alpha))", "xp.ones_like(a), xp.zeros_like(a))"),
    Plant(*ONNX, "xp.where(x > alpha, x, xp.zeros_like(x))", "xp.where(x > alpha, x - alpha, xp.zeros_like(x))"),
    Plant(*ONNX, "xp.where(x > alpha, x, xp.zeros_like(x))", "xp.where(x > 0, x, xp.zeros_like(x))"),
    Plant(*ONNX, "xp.tanh(x * beta) * alpha", "xp.tanh(x * alpha) * beta"),
    Plant(*ONNX, "(alpha - a * a * (1 / alpha)) * beta", "(alpha - a * a * (1 / alpha))"),
    Plant(*ONNX, "(alpha - a * a * (1 / alpha)) * beta", "(alpha - a * a) * beta"),
    Plant(*ONNX, "(alpha - a * a * (1 / alpha)) * beta", "(1 - a * a * (1 / alpha)) * beta"),
    Plant(*ONNX, "xp.clip(x * alpha + beta, 0, 1)", "xp.clip(x * alpha + beta, -1, 1)"),
    Plant(*ONNX, "xp.clip(x * alpha + beta, 0, 1)", "xp.clip(x * alpha, 0, 1)"),
    Plant(*ONNX, "(a > 0) & (a < 1)", "a > 0"),
    Plant(*ONNX, "(a > 0) & (a < 1)", "a < 1"),
    Plant(*ONNX, "(a > 0) & (a < 1), xp.full_like(a, alpha)", "(a > 0) & (a < 1), a * (1 - a)"),
    Plant(*ONNX, "xp.expm1(xp.where(x > 0, xp.zeros_like(x), x)) * alpha", "xp.expm1(x) * alpha"),
    Plant(
        *ONNX,
        "xp.expm1(xp.where(x > 0, xp.zeros_like(x), x)) * alpha",
        "xp.expm1(alpha * xp.where(x > 0, xp.zeros_like(x), x))",
    ),
    Plant(*ONNX, "xp.ones_like(a), a + alpha)", "xp.ones_like(a), a)"),
    Plant(*ONNX, "xp.ones_like(a), a + alpha)", "xp.ones_like(a), a + 1)"),
    Plant(*ONNX, "return x / (1 + xp.abs(x))", "return x / (1 + x * x)"),
    Plant(*ONNX, "return (1 - xp.abs(a)) * (1 - xp.abs(a))", "return 1 - xp.abs(a)"),
    Plant(*ONNX, "return (1 - xp.abs(a)) * (1 - xp.abs(a))", "return (1 - a) * (1 - a)"),
    Plant(*ONNX, "+ xp.log1p(xp.exp(-xp.abs(x)))", "+ xp.log1p(xp.exp(-x))"),
    Plant(*ONNX, "+ xp.log1p(xp.exp(-xp.abs(x)))", ""),
    Plant(
        *ONNX,
        "return xp.where(x > 0, x, xp.zeros_like(x)) + xp.log1p(xp.exp(-xp.abs(x)))",
        "return xp.log1p(xp.exp(x))",
    ),
    Plant(*ONNX, "return -xp.expm1(-a)", "return xp.expm1(a)"),
    Plant(*ONNX, "return -xp.expm1(-a)", "return 1 - xp.exp(-a)"),
    Plant(*ONNX, "lambda xp, a, alpha: relu_derivative(xp, a)", "lambda xp, a, alpha: xp.ones_like(a)"),
    Plant(*ONNX, '{"alpha": 0.01}', '{"alpha": 0.3}'),
    Plant(*ONNX, '{"alpha": 0.2, "beta": 0.5}', '{"alpha": 1 / 6, "beta": 0.5}'),
    Plant(*ONNX, '{"alpha": 1.0},\n', '{"alpha": 0.0},\n'),
]

# ---- the checks: tests of the other files, on NumPy ------------------------------------------------------------


def generator() -> np.random.Generator:
    return np.random.default_rng(5)


def results(*kinds: str) -> None:
    for name in cases.NAMES:
        if name.split("/")[0] in kinds:
            test_contract.test_results_and_gradients(NUMPY, name, "float64")


def padding(pr: Any) -> None:
    for kind in cases.LAYERS:
        test_contract.test_what_stands_in_the_padding_changes_nothing(NUMPY, kind)
        test_contract.test_length_zero_leaves_the_state(NUMPY, kind)


def many_blocks(pr: Any) -> None:
    for kind in ("lstm", "gru"):
        with pytest.MonkeyPatch.context() as patch:
            test_contract.test_many_blocks_of_steps(NUMPY, kind, (13, 6, 0), patch)


def kernels(pr: Any, *kinds: str, name: str = "numpy in-place") -> None:
    with pr.use_kernels(name):
        results(*kinds)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pr.recurrence, "COLUMNS", 40)  # several blocks of steps
            for kind in kinds:
                wide = (kind, test_kernels.WIDE, test_kernels.LENGTHS)
                test_contract.check_proof(test_contract.Run(NUMPY, cases.random_case(*wide)), cases.proof(*wide))


def stack(pr: Any) -> None:
    for kind in ("rnn", "lstm"):  # three layers, and two with a state of two parts
        test_stack.test_masks_and_lengths_by_loops(NUMPY, kind, True)
    test_stack.test_batch_first_is_the_same_turned(NUMPY, True)
    for kind in ("rnn", "lstm"):
        test_stack.test_the_backward_pass_uses_the_masks_of_its_forward_pass(NUMPY, kind, True)
    configurations(pr, lambda c: c.options["bidirectional"] and c.options["num_layers"] > 1)


def projection(pr: Any) -> None:
    configurations(pr, lambda c: "proj_size" in c.options)


def configurations(pr: Any, wanted: Callable[[Any], bool]) -> None:
    """The first few of PyTorch's stored results of this kind."""
    found = [k for k in range(stacks.COUNT) if wanted(stacks.configuration(k))][:8]
    for k in found:
        test_stack.test_results_and_gradients_are_pytorchs(NUMPY, k)


def losses(pr: Any) -> None:
    for name, function, first, second in (
        ("cross_entropy", pr.softmax_cross_entropy, "logits", "labels"),
        ("mse", pr.mean_squared_error, "prediction", "target"),
    ):
        for which in ("all", "mask"):
            c = case(f"{name}/{which}")
            value, gradient = function(c[first], c[second], c["mask"] if which == "mask" else None)
            assert largest_error(value, c["value"]) <= TOLERANCES["forward", "float64"].limit
            assert largest_error(gradient, c["grad/" + first]) <= TOLERANCES["gradient", "float64"].limit


def embedding(pr: Any) -> None:
    test_modules.test_embedding(NUMPY, "float64", "int64")
    test_modules.test_ids_in_the_padding_are_never_looked_up(NUMPY, generator())


def linear(pr: Any) -> None:
    for name in ("linear/bias", "linear/nobias"):
        test_modules.test_linear(NUMPY, name, "float64")
    test_modules.test_linear_with_lengths(NUMPY, generator())


def dropout(pr: Any) -> None:
    test_modules.test_dropout_has_the_same_mask_everywhere_and_backward_uses_its_own(NUMPY, generator(), "float64")
    test_modules.test_dropout_with_a_mask(NUMPY, generator())


def sequential(pr: Any) -> None:
    for kind in test_modules.KINDS:
        test_modules.test_sequential(NUMPY, generator(), kind, test_modules.LENGTHS, True)
        test_modules.test_sequential_is_its_members(NUMPY, generator(), kind)
        test_modules.test_sequential_in_halves_and_steps(NUMPY, generator(), kind)


def pool(pr: Any) -> None:
    for how in test_pool.HOW:
        for steps in test_pool.STEPS:
            for first in (False, True):
                test_pool.test_values_and_gradients(NUMPY, generator(), how, steps, first, "float64")
    for steps in test_pool.STEPS:
        test_pool.test_steps_that_tie_for_the_maximum_share_its_gradient(NUMPY, generator(), steps)


def classifier(pr: Any) -> None:
    for how in test_pool.HOW:
        test_pool.test_a_classifier_sees_each_sequence_as_if_it_were_alone(NUMPY, generator(), how)


def textbook(pr: Any) -> None:
    for kind in test_functional.GATES:
        test_functional.test_caches(NUMPY, generator(), kind)
        test_functional.test_sequences(NUMPY, generator(), kind, "float64")


def input_dropout(pr: Any) -> None:
    test_options.test_dropout_of_inputs_and_outputs_is_a_factor_of_x_and_y(NUMPY, "gru")


def state_dropout(pr: Any) -> None:
    for kind in ("rnn_tanh", "lstm", "gru", "gru_before"):
        test_options.test_dropout_of_the_state_is_a_recurrent_weight_of_each_example(NUMPY, kind)


def zoneout(pr: Any) -> None:
    test_options.test_zoneout_holds_a_unit_at_its_own_steps(NUMPY, "lstm")
    test_options.test_zoneouts_masks_of_a_seed_are_those_of_their_steps("lstm")
    test_options.test_segments_on_every_backend(NUMPY, "noisy gru")
    test_options.test_zoneout_with_lengths_and_both_directions("lstm")
    test_options.test_zoneouts_masks_of_a_seed_have_their_rates_and_differ_from_block_to_block()


def expected(pr: Any) -> None:
    test_options.test_without_a_seed_zoneout_takes_the_mean(NUMPY, "lstm")
    test_options.test_the_means_gradient("lstm")


def segments(pr: Any) -> None:
    for on in ("numpy in-place", False):
        with pr.use_kernels(on):
            test_options.test_gradients_of_segments_are_equal_to_the_last_bit_on_numpy("lstm", "float32", 40)
            test_options.test_segments_on_every_backend(NUMPY, "gru")
    with pr.use_kernels("numpy in-place"):
        many_blocks(pr)


def ensembles(pr: Any) -> None:
    for kind in ("lstm", "gru"):
        test_options.test_an_ensemble_is_its_members(NUMPY, kind, True, False)
    test_options.test_an_ensembles_parameters_are_drawn_one_member_after_the_other()


def each(pr: Any) -> None:
    for kind in ("gru", "noisy lstm", "noisy gru"):
        test_options.test_gradients_of_each_example(NUMPY, kind)


def truncated(pr: Any) -> None:
    test_options.test_truncated_gradients_forget_what_lies_before_a_piece(NUMPY, test_options.LENGTHS)


def some_variants(*wanted: str) -> None:
    """Those whose names begin so."""
    for name in variants.NAMED:
        if name.startswith(wanted):
            test_variants.check(NUMPY, name, "float64")


def analytic(pr: Any) -> None:
    """What says that it may be run on complex numbers has no bend."""
    for name in variants.NAMED:
        test_variants.test_what_is_analytic_has_no_bend(name)


def activations(pr: Any) -> None:
    for spec in test_activations.SPECS:
        test_activations.test_values_and_derivatives(NUMPY, spec, "float64")
    for spec in test_activations.LIMITS:
        try:
            test_activations.test_far_from_zero_nothing_overflows(NUMPY, spec, "float64")
        except RuntimeWarning as warning:
            raise AssertionError(warning) from None
    test_activations.test_small_values_are_accurate()
    test_activations.test_the_defaults_are_those_of_onnx()


LSTM_NAMES = tuple(name for name in variants.NAMED if not name.startswith(("gru", "rnn")))

CHECKS: dict[str, tuple[Callable[[Any], None], ...]] = {
    "rnn": (lambda pr: results("rnn_tanh", "rnn_relu"),),
    "lstm": (lambda pr: results("lstm"),),
    "gru": (lambda pr: results("gru"),),
    "gru_before": (lambda pr: results("gru_before"),),
    "cells": (lambda pr: results(*cases.LAYERS),),
    "masked": (padding, lambda pr: results("rnn_tanh", "lstm")),
    "blocks": (many_blocks,),
    "layers": (padding, lambda pr: results("lstm")),
    "stack": (stack,),
    "drop_rate": (lambda pr: test_stack.test_masks_of_a_seed_drop_at_the_rate_and_differ_from_layer_to_layer(),),
    "projection": (projection,),
    "learned": (lambda pr: test_stack.test_learned_states_are_the_state_of_every_sequence_that_has_none(NUMPY, "rnn"),),
    "input_dropout": (input_dropout,),
    "state_dropout": (state_dropout,),
    "zoneout": (zoneout,),
    "expected": (expected,),
    "segments": (segments,),
    "ensembles": (ensembles,),
    "each": (each,),
    "truncated": (truncated,),
    "modules": (linear, embedding),
    "embedding": (embedding,),
    "linear": (linear,),
    "dropout": (dropout,),
    "sequential": (sequential,),
    "pool": (pool,),
    "classifier": (classifier,),
    "losses": (losses,),
    "kernels": (lambda pr: kernels(pr, *test_kernels.KINDS),),
    "kernel_rnn": (lambda pr: kernels(pr, "rnn_tanh", "rnn_relu"),),
    "kernel_lstm": (lambda pr: kernels(pr, "lstm"),),
    "kernel_gru": (lambda pr: kernels(pr, "gru"),),
    "textbook": (textbook,),
    "lstm_variant": (lambda pr: some_variants(*LSTM_NAMES), analytic),
    "gru_variant": (lambda pr: some_variants("gru"), analytic),
    "rnn_variant": (lambda pr: some_variants("rnn"), analytic),
    "parts": (lambda pr: some_variants("rnn_clip", "clip", "layer", "gru", "peephole", "cell_clip"),),
    "activations": (activations,),
}

# ---- the machinery ---------------------------------------------------------------------------------------------


class Altered(importlib.abc.MetaPathFinder):
    """Finds polyrnn's modules where they are, and gives some of them other source text."""

    def __init__(self, sources: dict[Path, str]) -> None:
        self.sources = sources

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] != "polyrnn":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        source = None if spec is None or spec.origin is None else self.sources.get(Path(spec.origin))
        if source is not None:
            code = compile(source, spec.origin, "exec", dont_inherit=True)
            spec.loader.get_code = lambda fullname: code  # type: ignore[union-attr, method-assign]
        return spec


def altered_source(plant: Plant) -> str:
    source = (PACKAGE / plant.file).read_text("utf-8")
    start = source.find(plant.after)
    at = source.find(plant.old, start)
    assert start >= 0, f"{plant.file} no longer contains {plant.after!r}"
    assert at >= 0, f"{plant.file} no longer contains {plant.old!r} after {plant.after!r}"
    return source[:at] + plant.new + source[at + len(plant.old) :]


@contextlib.contextmanager
def another_polyrnn(sources: dict[str, str] | None = None) -> Iterator[Any]:
    """The package imported anew, with some files replaced; the first one comes back afterwards."""

    def ours() -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] == "polyrnn"]

    finder = Altered({PACKAGE / file: source for file, source in (sources or {}).items()})
    saved = {name: sys.modules.pop(name) for name in ours()}
    sys.meta_path.insert(0, finder)
    try:
        yield importlib.import_module("polyrnn")
    finally:
        sys.meta_path.remove(finder)
        for name in ours():
            del sys.modules[name]
        sys.modules.update(saved)


@contextlib.contextmanager
def under_test(pr: Any) -> Iterator[None]:
    """The tests of the other files look at this copy."""

    def moved(c: cases.Case) -> cases.Case:
        make = getattr(pr, type(c.layer).__name__)
        names = [name for name in ("nonlinearity", "reset_after") if hasattr(c.layer, name)]
        options = {name: getattr(c.layer, name) for name in names}
        return replace(c, layer=make(c.layer.input_size, c.layer.hidden_size, bias=c.layer.bias, **options))

    def layer(old: Any) -> Any:
        return getattr(pr, type(old).__name__)(**{f.name: getattr(old, f.name) for f in fields(old)})

    get, random_case = cases.get, cases.random_case
    with pytest.MonkeyPatch.context() as patch, pr.use_kernels(False):
        patch.setattr(cases, "get", lambda name: moved(get(name)))
        patch.setattr(cases, "random_case", lambda *arguments: moved(random_case(*arguments)))
        patch.setattr(test_contract, "recurrence", sys.modules["polyrnn.recurrence"])
        patch.setattr(cases, "LAYERS", {k: (getattr(pr, c.__name__), o) for k, (c, o) in cases.LAYERS.items()})
        for name in ("recurrence", "stack"):
            patch.setattr(test_options, name, sys.modules[f"polyrnn.{name}"])
        for table in ("NOISY", "LONG", "MEMBERS", "EACH"):
            patch.setattr(test_options, table, {k: layer(v) for k, v in getattr(test_options, table).items()})
        for module in (
            test_modules,
            test_pool,
            test_functional,
            test_stack,
            test_options,
            test_variants,
            test_activations,
        ):
            patch.setattr(module, "pr", pr)
        yield


@pytest.fixture(scope="module", autouse=True)
def _references() -> None:
    """What must come out is found on the library as it is, once."""
    for name in cases.NAMES:
        cases.expected(name)
    for kind in ("lstm", "gru"):
        cases.proof(kind, (13, 3, 2, 5), (13, 6, 0))
    for kind in test_kernels.KINDS:
        cases.proof(kind, test_kernels.WIDE, test_kernels.LENGTHS)
    for name in variants.NAMED:
        variants.proof(name)


@pytest.mark.parametrize("name", CHECKS)
def test_a_sound_copy_passes(name):
    with another_polyrnn() as pr, under_test(pr):
        assert pr is not polyrnn
        for check in CHECKS[name]:
            check(pr)


@pytest.mark.parametrize("plant", TABLE, ids=lambda p: f"{p.file}: {p.old} -> {p.new or 'nothing'}")
def test_it_is_caught(plant):
    with another_polyrnn({plant.file: altered_source(plant)}) as pr, under_test(pr):
        for check in CHECKS[plant.check]:
            try:
                check(pr)
            except AssertionError:
                return
    pytest.fail(f"nobody noticed: {plant}")


def test_a_plant_that_no_longer_applies_is_noticed():
    with pytest.raises(AssertionError, match="no longer contains 'not there'"):
        altered_source(Plant("rnn", "cells/rnn.py", "class RNNCell", "not there", ""))


def test_the_library_is_itself_again():
    import polyrnn.cells.rnn

    assert sys.modules["polyrnn"] is polyrnn
    assert "polyrnn.cells.rnn" in sys.modules
    assert test_contract.recurrence is sys.modules["polyrnn.recurrence"]
