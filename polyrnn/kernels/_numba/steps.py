"""What a step of a cell does to a vector of units of an example, forward and back, compiled.

The equations and their numbers are those of the cells. What a loop reads and writes is a table of addresses, a row
(address, pitch over T, pitch over N) for each array; the address 0 stands for one that is absent. States have a slot
for each step, or two slots in turn where nothing is kept.
"""

from __future__ import annotations

import numpy as np

from .products import sigmoid, tanh
from .simd import BYTES, get, load, most, njit, store, where_positive, whole, zeros

# Numbers of NumPy and not Python's, for each of which Numba would compile what it is given to anew.
ORIGIN, OVER_T, OVER_N = (np.int64(k) for k in range(3))
NO_STEP = np.int64(0)
# Rows of the table, forward: the input, the states by slot, y, what is kept of the gates, and which steps are valid.
X, H, C, Y, KEPT, VALID = (np.int64(k) for k in range(6))
# Backward: the gradients of the states, those of y and c from above, the residuals, dz, the valid steps, the input.
DH, DC, DY, DY_C, H_PREV, C_PREV, R0, R1, R2, R3, R4, DZ, RUNS, X_BACK = (np.int64(k) for k in range(14))
LINES = 14


@njit
def entry(table, which, column):
    """A number of the table, which is itself an address: as an array, its references would be counted in the loop."""
    return get(table + (3 * which + column) * 8, np.int64(0))


@njit
def at(table, which, t, n):
    """The address of what stands at step t of example n."""
    return entry(table, which, ORIGIN) + t * entry(table, which, OVER_T) + n * entry(table, which, OVER_N)


@njit
def running(table, which, t, n):
    """Whether the sequence still runs at this step."""
    return entry(table, which, ORIGIN) == 0 or get(at(table, which, t, n), np.uint8(0)) != 0


@njit
def finish(table, t, n, old, new, offset, h, runs, count, like):
    """Put the new h into its slot and into y; where the sequence has ended the old one stays, and y is zero."""
    if runs:
        store(at(table, H, new, n) + offset, h, count, like)
        store(at(table, Y, t, n) + offset, h, count, like)
    else:
        store(at(table, H, new, n) + offset, load(at(table, H, old, n) + offset, count, like), count, like)
        store(at(table, Y, t, n) + offset, zeros(like), count, like)


@njit
def from_above(table, which, above, t, n, offset, count, like):
    """The gradient of a state: from step t + 1, and from above."""
    d = load(at(table, which, NO_STEP, n) + offset, count, like)
    if entry(table, above, ORIGIN) != 0:
        d = d + load(at(table, above, t, n) + offset, count, like)
    return d


# ---- the cells: a vector of units of one step, forward and back ----------------------------
#
# z holds U h_{t-1} + W x_t + b of each gate, BYTES apart; `offset` are the bytes before these units, `count` the units
# from there on, `row` the bytes of all units. `kind` is 1 for an RNN with relu.


@njit
def rnn_step(table, z, pre, t, n, old, new, offset, count, row, runs, keep, kind, like):
    """(1), (2) of cells/rnn.py."""
    a = whole(z, like)
    finish(table, t, n, old, new, offset, most(a, 0) if kind == 1 else tanh(a, like), runs, count, like)


@njit
def rnn_step_backward(table, t, n, offset, count, row, runs, kind, like):
    """(3); the product of (4) follows for all units."""
    dh = from_above(table, DH, DY, t, n, offset, count, like)
    dz = zeros(like)
    if runs:
        h = load(at(table, R0, t, n) + offset, count, like)
        dz = where_positive(dh, h) if kind == 1 else dh * (1 - h * h)  # (3)
        dh = zeros(like)
    store(at(table, DZ, t, n) + offset, dz, count, like)
    store(at(table, DH, NO_STEP, n) + offset, dh, count, like)


@njit
def lstm_step(table, z, pre, t, n, old, new, offset, count, row, runs, keep, kind, like):
    """(1) to (4) of cells/lstm.py; kept are i, f, g, o and tanh(c)."""
    i, f = sigmoid(whole(z, like), like), sigmoid(whole(z + BYTES, like), like)  # (2)
    g, o = tanh(whole(z + 2 * BYTES, like), like), sigmoid(whole(z + 3 * BYTES, like), like)
    c_prev = load(at(table, C, old, n) + offset, count, like)
    c = f * c_prev + i * g  # (3)
    tanh_c = tanh(c, like)
    store(at(table, C, new, n) + offset, c if runs else c_prev, count, like)
    finish(table, t, n, old, new, offset, o * tanh_c, runs, count, like)  # (4)
    if keep:
        kept = at(table, KEPT, t, n) + offset
        store(kept, i, count, like)
        store(kept + row, f, count, like)
        store(kept + 2 * row, g, count, like)
        store(kept + 3 * row, o, count, like)
        store(kept + 4 * row, tanh_c, count, like)


@njit
def lstm_step_backward(table, t, n, offset, count, row, runs, kind, like):
    """(5) to (7); the product of (8) follows for all units."""
    dh = from_above(table, DH, DY, t, n, offset, count, like)
    dc = from_above(table, DC, DY_C, t, n, offset, count, like)
    dz_i = dz_f = dz_g = dz_o = zeros(like)
    if runs:
        i = load(at(table, R0, t, n) + offset, count, like)
        f = load(at(table, R1, t, n) + offset, count, like)
        g = load(at(table, R2, t, n) + offset, count, like)
        o = load(at(table, R3, t, n) + offset, count, like)
        tanh_c = load(at(table, R4, t, n) + offset, count, like)
        c_prev = load(at(table, C_PREV, t, n) + offset, count, like)
        dc = dc + dh * o * (1 - tanh_c * tanh_c)  # (5)
        dz_i = dc * g * i * (1 - i)  # (6)
        dz_f = dc * c_prev * f * (1 - f)
        dz_g = dc * i * (1 - g * g)
        dz_o = dh * tanh_c * o * (1 - o)
        dc = dc * f  # (7)
        dh = zeros(like)
    dz = at(table, DZ, t, n) + offset
    store(dz, dz_i, count, like)
    store(dz + row, dz_f, count, like)
    store(dz + 2 * row, dz_g, count, like)
    store(dz + 3 * row, dz_o, count, like)
    store(at(table, DC, NO_STEP, n) + offset, dc, count, like)
    store(at(table, DH, NO_STEP, n) + offset, dh, count, like)


@njit
def gru_step(table, z, pre, t, n, old, new, offset, count, row, runs, keep, kind, like):
    """(2) to (4) of cells/gru.py, reset after; the third block of z is q alone, p_n stands in pre. Kept: r, z, n, q."""
    r, u = sigmoid(whole(z, like), like), sigmoid(whole(z + BYTES, like), like)  # (2)
    q = whole(z + 2 * BYTES, like)
    new_memory = tanh(whole(pre + 2 * BYTES, like) + r * q, like)  # (3)
    h_prev = load(at(table, H, old, n) + offset, count, like)
    finish(table, t, n, old, new, offset, (1 - u) * new_memory + u * h_prev, runs, count, like)  # (4)
    if keep:
        kept = at(table, KEPT, t, n) + offset
        store(kept, r, count, like)
        store(kept + row, u, count, like)
        store(kept + 2 * row, new_memory, count, like)
        store(kept + 3 * row, q, count, like)


@njit
def gru_step_backward(table, t, n, offset, count, row, runs, kind, like):
    """(5) to (7), and dh * z of (8); dz has the blocks da_n, dp_r, dp_z, dq_n: dp are the first three, dq the last."""
    dh = from_above(table, DH, DY, t, n, offset, count, like)
    da_n = dp_r = dp_z = dq_n = zeros(like)
    if runs:
        h_prev = load(at(table, H_PREV, t, n) + offset, count, like)
        r = load(at(table, R0, t, n) + offset, count, like)
        u = load(at(table, R1, t, n) + offset, count, like)
        new_memory = load(at(table, R2, t, n) + offset, count, like)
        q = load(at(table, R3, t, n) + offset, count, like)
        da_n = dh * (1 - u) * (1 - new_memory * new_memory)  # (5)
        dq_n = da_n * r  # (6)
        dp_r = da_n * q * r * (1 - r)  # (7)
        dp_z = dh * (h_prev - new_memory) * u * (1 - u)
        dh = dh * u  # (8)
    dz = at(table, DZ, t, n) + offset
    store(dz, da_n, count, like)
    store(dz + row, dp_r, count, like)
    store(dz + 2 * row, dp_z, count, like)
    store(dz + 3 * row, dq_n, count, like)
    store(at(table, DH, NO_STEP, n) + offset, dh, count, like)
