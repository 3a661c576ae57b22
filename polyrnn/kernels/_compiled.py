"""The compiled recurrences: what a step of a cell does to the units of an example, and the loops around it.

The equations and their numbers are those of the cells. A thread runs the examples first ... last over all steps, and
never waits for another: an example's recurrence does not depend on the others.

What a loop reads and writes is a table of addresses, a row (address, pitch over T, pitch over N) for each array; the
address 0 stands for one that is absent. States have a slot for each step, or two slots in turn where nothing is kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ._products import (
    DEPTH,
    add_products,
    add_rows,
    blocks_of,
    multiply,
    multiply_inside,
    pack,
    pack_rows,
    rows_at_once,
    sigmoid,
    tanh,
)
from ._simd import BYTES, ROWS, get, itemsize, lanes, load, most, store, where_positive, whole, zeros

# Rows of the table, forward: the input, the states by slot, y, what is kept of the gates, and which steps are valid.
X, H, C, Y, KEPT, VALID = range(6)
# Backward: the gradients of the states, those of y and c from above, the residuals, dz, and which steps are valid.
DH, DC, DY, DY_C, H_PREV, C_PREV, R0, R1, R2, R3, R4, DZ, RUNS = range(13)


@njit
def entry(table, which, column):
    """A number of the table, which is itself an address: as an array, its references would be counted in the loop."""
    return get(table + (3 * which + column) * 8, np.int64(0))


@njit
def at(table, which, t, n):
    """The address of what stands at step t of example n."""
    return entry(table, which, 0) + t * entry(table, which, 1) + n * entry(table, which, 2)


@njit
def running(table, which, t, n):
    """Whether the sequence still runs at this step."""
    return entry(table, which, 0) == 0 or get(at(table, which, t, n), np.uint8(0)) != 0


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
    d = load(at(table, which, 0, n) + offset, count, like)
    if entry(table, above, 0) != 0:
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
    store(at(table, DH, 0, n) + offset, dh, count, like)


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
    store(at(table, DC, 0, n) + offset, dc, count, like)
    store(at(table, DH, 0, n) + offset, dh, count, like)


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
    store(at(table, DH, 0, n) + offset, dh, count, like)


# ---- the loops -----------------------------------------------------------------------------


@njit
def project(gates, table, w, bias, units, inputs, first, last, start, steps, pre, like):
    """pre = W x_t + b of a block of steps, (steps, examples, blocks, gates, vector)."""
    count, width = last - first, blocks_of(units, like) * gates * BYTES
    # Rows of one product are examples; of a batch too small for that, steps.
    over_steps = count < 3 < steps
    outer, inner = (count, steps) if over_steps else (steps, count)
    pitch, out_pitch = (entry(table, X, 1), count * width) if over_steps else (entry(table, X, 2), width)
    at_once = rows_at_once(inner)
    for block in range(blocks_of(units, like)):
        panels = block * gates * BYTES
        for a in range(outer):
            for b in range(0, inner, at_once):
                t, n = (b, a) if over_steps else (a, b)
                multiply(
                    gates,
                    w + panels * inputs,
                    at(table, X, start + t, first + n),
                    pitch,
                    inputs,
                    bias + panels,
                    0,
                    pre + (t * count + n) * width + panels,
                    out_pitch,
                    min(at_once, inner - b),
                    like,
                )


def over_time(step: Any, gates: int, joint: int) -> Any:
    """The forward loop of a cell; of the first `joint` gates, z is the sum of both products."""

    @njit
    def forward(table, weights, T, units, inputs, first, last, size, keep, kind, scratch, like):
        """Examples first ... last, in blocks of `size` steps.

        `weights` are the addresses of W and U as `packed`, and of the biases of the input's and the recurrent share.
        """
        w, u = get(weights, np.int64(0)), get(weights + 8, np.int64(0))
        bias, recurrent_bias = get(weights + 16, np.int64(0)), get(weights + 24, np.int64(0))
        count, row, blocks = last - first, units * itemsize(like), blocks_of(units, like)
        width, z_pitch, apart = blocks * gates * BYTES, gates * BYTES, gates - joint
        z, pre = scratch, scratch + ROWS * gates * BYTES
        at_once = rows_at_once(count)
        for start in range(0, T, size):
            steps = min(size, T - start)
            project(gates, table, w, bias, units, inputs, first, last, start, steps, pre, like)
            for t in range(start, start + steps):
                old, new = (t, t + 1) if keep else (t % 2, (t + 1) % 2)
                for block in range(blocks):
                    panels = block * gates * BYTES
                    for n in range(first, last, at_once):
                        rows = min(at_once, last - n)
                        here = pre + ((t - start) * count + n - first) * width + panels
                        h, pitch = at(table, H, old, n), entry(table, H, 2)
                        uh = u + panels * units
                        multiply(joint, uh, h, pitch, units, here, width, z, z_pitch, rows, like)
                        if apart > 0:
                            uh, out = uh + joint * BYTES * units, z + joint * BYTES
                            b = recurrent_bias + block * apart * BYTES
                            multiply(apart, uh, h, pitch, units, b, 0, out, z_pitch, rows, like)
                        for m in range(rows):
                            runs = running(table, VALID, t, n + m)
                            step(
                                table,
                                z + m * z_pitch,
                                here + m * width,
                                t,
                                n + m,
                                old,
                                new,
                                block * BYTES,
                                units - block * lanes(like),
                                row,
                                running(table, VALID, t, n + m),
                                keep,
                                kind,
                                like,
                            )

    return forward


def back_through_time(step: Any, first_block: int, row_count: int) -> Any:
    """The backward loop of a cell; U^T meets `row_count` blocks of dz from `first_block` on."""

    @njit
    def backward(table, u, units, first, last, start, end, kind, spare, like):
        """Examples first ... last from step end - 1 down to `start`; u is U^T as `packed`."""
        row = units * itemsize(like)
        for t in range(end - 1, start - 1, -1):
            for n in range(first, last):
                runs = running(table, RUNS, t, n)
                for unit in range(0, units, lanes(like)):
                    step(table, t, n, unit * itemsize(like), units - unit, row, runs, kind, like)
            dz, dh = at(table, DZ, t, first) + first_block * row, at(table, DH, 0, first)
            multiply_inside(
                u,
                dz,
                entry(table, DZ, 2),
                row_count * units,
                dh,
                entry(table, DH, 2),
                dh,
                entry(table, DH, 2),
                last - first,
                units,
                spare,
                like,
            )

    return backward


_rnn, _lstm, _gru = over_time(rnn_step, 1, 1), over_time(lstm_step, 4, 4), over_time(gru_step, 3, 2)
_rnn_back = back_through_time(rnn_step_backward, 0, 1)
_lstm_back = back_through_time(lstm_step_backward, 0, 4)
_gru_back = back_through_time(gru_step_backward, 1, 3)


# ---- what Python calls: one form for each dtype, kept on the disk --------------------------

_entry = njit(nogil=True, cache=True)


@_entry
def pack_weights(w, w_row, w_step, units, gates, K, out, like):
    pack(w, w_row, w_step, units, gates, K, out, like)


@_entry
def rnn_forward(table, weights, T, units, inputs, first, last, size, keep, kind, scratch, like):
    _rnn(table, weights, T, units, inputs, first, last, size, keep, kind, scratch, like)


@_entry
def lstm_forward(table, weights, T, units, inputs, first, last, size, keep, kind, scratch, like):
    _lstm(table, weights, T, units, inputs, first, last, size, keep, kind, scratch, like)


@_entry
def gru_forward(table, weights, T, units, inputs, first, last, size, keep, kind, scratch, like):
    _gru(table, weights, T, units, inputs, first, last, size, keep, kind, scratch, like)


@_entry
def rnn_backward(table, u, units, first, last, start, end, kind, spare, like):
    _rnn_back(table, u, units, first, last, start, end, kind, spare, like)


@_entry
def lstm_backward(table, u, units, first, last, start, end, kind, spare, like):
    _lstm_back(table, u, units, first, last, start, end, kind, spare, like)


@_entry
def gru_backward(table, u, units, first, last, start, end, kind, spare, like):
    _gru_back(table, u, units, first, last, start, end, kind, spare, like)


@_entry
def input_gradient(dz, dz_pitch, K, w, zeros, dx, dx_pitch, rows, inputs, spare, like):
    """dx = W^T dp of `rows` rows."""
    multiply_inside(w, dz, dz_pitch, K, zeros, 0, dx, dx_pitch, rows, inputs, spare, like)


@_entry
def weight_gradients(
    dz,
    pitch,
    dz_blocks,
    x,
    inputs,
    x_gates,
    h,
    h_gates,
    units,
    low,
    high,
    N,
    start,
    end,
    size,
    dw,
    du,
    db,
    scratch,
    like,
):
    """Add to dw (G*H, I), du (G*H, H) and db (dz_blocks, H) the sums over steps start ... end, units low ... high.

    `x` and `h` are address, pitch over T and pitch over N; dz has the rows (t, n) from step `start` on. From the last
    block of `size` steps to the first, as segments of whole blocks would be summed.
    """
    panel, spare = scratch, scratch + DEPTH * BYTES
    tiles, width = spare + ROWS * BYTES, units * itemsize(like)
    for block in range((end - start - 1) // size, -1, -1):
        begin, stop = block * size * N, min((block + 1) * size, end - start) * N
        for row in range(begin, stop, DEPTH):
            depth, first, here = min(DEPTH, stop - row), start * N + row, dz + row * pitch
            pack_rows(here, pitch, dz_blocks, units, low, high, depth, tiles, like)
            add_products(tiles, x_gates, units, low, high, x, inputs, N, first, depth, dw, panel, spare, like)
            add_products(tiles, h_gates, units, low, high, h, units, N, first, depth, du, panel, spare, like)
            for gate in range(dz_blocks):
                add_rows(here + gate * width, pitch, depth, low, high, db + gate * width, like)
