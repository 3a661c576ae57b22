"""The compiled recurrences: what a step of a cell does to the units of an example, and the loops around it.

The equations and their numbers are those of the cells. A thread runs the examples first ... last over all steps, and
never waits for another: an example's recurrence does not depend on the others.

What a loop reads and writes is a table of addresses, a row (address, pitch over T, pitch over N) for each array; the
address 0 stands for one that is absent. States have a slot for each step, or two slots in turn where nothing is kept.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit, types

from ._products import (
    DEPTH,
    add_products,
    add_rows,
    blocks_of,
    multiply,
    multiply_inside,
    pack,
    pack_rows,
    pack_transposed,
    rows_at_once,
    sigmoid,
    tanh,
)
from ._simd import (
    BYTES,
    ROWS,
    get,
    itemsize,
    lanes,
    load,
    most,
    put,
    put_whole,
    store,
    where_positive,
    whole,
    zero,
    zeros,
)

# Rows of the table, forward: the input, the states by slot, y, what is kept of the gates, and which steps are valid.
X, H, C, Y, KEPT, VALID = range(6)
# Backward: the gradients of the states, those of y and c from above, the residuals, dz, the valid steps, the input.
DH, DC, DY, DY_C, H_PREV, C_PREV, R0, R1, R2, R3, R4, DZ, RUNS, X_BACK = range(14)
LINES = 14


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
    """Pre = W x_t + b of a block of steps, (steps, examples, blocks, gates, vector)."""
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
    def forward(table, packed, T, units, inputs, first, last, size, keep, kind, scratch, like):
        """Examples first ... last, in blocks of `size` steps.

        `packed` are the addresses of W and U, and of the biases of the input's and the recurrent share.
        """
        w, u, bias, recurrent_bias = packed
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


# ---- what Python calls -----------------------------------------------------------------------


@njit
def describe(table, which, array):
    """Put an array into the table; an empty one counts as absent."""
    table[which, 0] = array.ctypes.data if array.size > 0 else 0
    table[which, 1], table[which, 2] = array.strides[0], array.strides[1]


def start_forward(table, packed, w, u, b_ih, b_hh, x, h, c, y, kept, valid, gates, joint, like):
    """Fill the table, and pack the weights and biases to the addresses `packed`.

    Of the first `joint` gates both biases are added before the loop, of the others that of the input's share.
    """
    describe(table, X, x)
    describe(table, H, h)
    describe(table, C, c)
    describe(table, Y, y)
    describe(table, KEPT, kept)
    describe(table, VALID, valid)
    units = w.shape[0] // gates
    pack(w.ctypes.data, w.strides[0], w.strides[1], units, gates, w.shape[1], packed[0], like)
    pack(u.ctypes.data, u.strides[0], u.strides[1], units, gates, units, packed[1], like)
    size, bias, recurrent_bias = itemsize(like), packed[2], packed[3]
    for unit in range(blocks_of(units, like) * lanes(like)):
        block, lane = unit // lanes(like), unit % lanes(like)
        inside = unit < units and b_ih.size > 0
        for gate in range(gates):
            k = gate * units + unit
            value = b_ih[k] if inside else zero(like)
            other = b_hh[k] if inside else zero(like)
            if gate >= joint:
                put(recurrent_bias + (block * (gates - joint) + gate - joint) * BYTES + lane * size, other)
            put(bias + (block * gates + gate) * BYTES + lane * size, value if gate >= joint else value + other)


def start_backward(
    table, packed, w, u, x_order, h_order, x, dh, dc, dy, dy_c, h_prev, c_prev, r0, r1, r2, r3, r4, dz, valid, like
):
    """Fill the table, and pack U^T, W^T and a row of zeros; their gates stand in the order of the blocks of dz."""
    describe(table, DH, dh)
    describe(table, DC, dc)
    describe(table, DY, dy)
    describe(table, DY_C, dy_c)
    describe(table, H_PREV, h_prev)
    describe(table, C_PREV, c_prev)
    describe(table, R0, r0)
    describe(table, R1, r1)
    describe(table, R2, r2)
    describe(table, R3, r3)
    describe(table, R4, r4)
    describe(table, DZ, dz)
    describe(table, RUNS, valid)
    describe(table, X_BACK, x)
    pack_transposed(u, h_order, packed[0], like)
    pack_transposed(w, x_order, packed[1], like)
    for k in range(blocks_of(w.shape[1], like)):
        put_whole(packed[2] + k * BYTES, zeros(like))


def rnn_forward(table, packed, T, units, inputs, first, last, size, keep, kind, scratch, like):
    _rnn(table.ctypes.data, packed, T, units, inputs, first, last, size, keep, kind, scratch, like)


def lstm_forward(table, packed, T, units, inputs, first, last, size, keep, kind, scratch, like):
    _lstm(table.ctypes.data, packed, T, units, inputs, first, last, size, keep, kind, scratch, like)


def gru_forward(table, packed, T, units, inputs, first, last, size, keep, kind, scratch, like):
    _gru(table.ctypes.data, packed, T, units, inputs, first, last, size, keep, kind, scratch, like)


def rnn_backward(table, packed, units, first, last, start, end, kind, spare, like):
    _rnn_back(table.ctypes.data, packed[0], units, first, last, start, end, kind, spare, like)


def lstm_backward(table, packed, units, first, last, start, end, kind, spare, like):
    _lstm_back(table.ctypes.data, packed[0], units, first, last, start, end, kind, spare, like)


def gru_backward(table, packed, units, first, last, start, end, kind, spare, like):
    _gru_back(table.ctypes.data, packed[0], units, first, last, start, end, kind, spare, like)


def gradients(table, packed, x_gates, h_gates, low, high, N, start, end, size, dw, du, db, dx, scratch, like):
    """What the steps start ... end leave to do, for the units low ... high: dx, and the sums over them.

    Added to dw (G*H, I), du (G*H, H) and db (blocks of dz, H), from the last block of `size` steps to the first, as
    segments of whole blocks would be summed. Of dx (T, N, I) a share of rows is written that corresponds to the units.
    """
    t = table.ctypes.data
    units, inputs, row_bytes = du.shape[1], dw.shape[1], du.shape[1] * itemsize(like)
    dz, pitch, rows = at(t, DZ, start, 0), entry(t, DZ, 2), (end - start) * N
    panel, spare = scratch, scratch + DEPTH * BYTES
    tiles = spare + ROWS * BYTES
    x = (entry(t, X_BACK, 0), entry(t, X_BACK, 1), entry(t, X_BACK, 2))
    h = (entry(t, H_PREV, 0), entry(t, H_PREV, 1), entry(t, H_PREV, 2))
    for block in range((end - start - 1) // size, -1, -1):
        stop = min((block + 1) * size * N, rows)
        for row in range(block * size * N, stop, DEPTH):
            depth, first, here = min(DEPTH, stop - row), start * N + row, dz + row * pitch
            pack_rows(here, pitch, len(db), units, low, high, depth, tiles, like)
            to = dw.ctypes.data
            add_products(tiles, x_gates, units, low, high, x, inputs, N, first, depth, to, panel, spare, like)
            to = du.ctypes.data
            add_products(tiles, h_gates, units, low, high, h, units, N, first, depth, to, panel, spare, like)
            for gate in range(len(db)):
                to = db.ctypes.data + gate * row_bytes
                add_rows(here + gate * row_bytes, pitch, depth, low, high, to, like)
    first, last = rows * low // units, rows * high // units
    dx_pitch = inputs * itemsize(like)
    multiply_inside(
        packed[1],
        dz + first * pitch,
        pitch,
        len(x_gates) * units,
        packed[2],
        0,
        dx.ctypes.data + (start * N + first) * dx_pitch,
        dx_pitch,
        last - first,
        inputs,
        spare,
        like,
    )


def _signatures(number: types.Float) -> dict[str, tuple]:
    """The types of the arguments: one form for arrays of all strides, and for those that may not be written to."""

    def array(axes: int, element: types.Type = number) -> types.Array:
        return types.Array(element, axes, "A", readonly=True, aligned=False)

    def own(axes: int, element: types.Type = number) -> types.Array:
        return types.Array(element, axes, "C")

    i64 = types.int64
    table, four, gates = own(2, i64), types.UniTuple(i64, 4), own(1, i64)
    valid = array(2, types.boolean)
    forward = (table, four, *[i64] * 9, number)
    backward = (table, four, *[i64] * 7, number)
    found = {
        f"{cell}_{way}": kind
        for cell in ("rnn", "lstm", "gru")
        for way, kind in (("forward", forward), ("backward", backward))
    }
    return found | {
        "start_forward": (
            *(table, four, array(2), array(2), array(1), array(1)),
            *(array(3), array(3), array(3), array(3), array(4), valid, i64, i64, number),
        ),
        "start_backward": (*(table, four, array(2), array(2), gates, gates), *[array(3)] * 12, array(4), valid, number),
        "gradients": (table, four, gates, gates, *[i64] * 6, own(2), own(2), own(2), own(3), i64, number),
    }


@functools.cache
def compiled(name: str, dtype: np.dtype) -> Any:
    """A function of this file compiled for float32 or float64; kept on the disk, where there is a place for it."""
    function = njit(nogil=True)(globals()[name])
    with contextlib.suppress(RuntimeError):  # Numba found no folder that it may write to
        function.enable_caching()
        # Numba looks at the age of the function's own file alone.
        function._cache._cache_file._source_stamp = _digest()
    function.compile(_signatures(types.float32 if dtype == np.float32 else types.float64)[name])
    function.disable_compile()
    return function


@functools.cache
def _digest() -> str:
    """Of all that is compiled here."""
    files = (Path(__file__).with_name(name) for name in ("_compiled.py", "_products.py", "_simd.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
