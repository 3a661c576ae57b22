"""The loops over time, forward and back, and what Python calls of them.

A thread runs the examples first ... last over all steps, and never waits for another: an example's recurrence does not
depend on the others. The gradients of the weights come afterwards, shared by units.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .products import (
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
)
from .simd import BYTES, ROWS, itemsize, lanes, njit, put, put_whole, zero, zeros
from .steps import (
    C_PREV,
    DC,
    DH,
    DY,
    DY_C,
    DZ,
    H_PREV,
    KEPT,
    NO_STEP,
    ORIGIN,
    OVER_N,
    OVER_T,
    R0,
    R1,
    R2,
    R3,
    R4,
    RUNS,
    VALID,
    X_BACK,
    C,
    H,
    X,
    Y,
    at,
    entry,
    gru_step,
    gru_step_backward,
    lstm_step,
    lstm_step_backward,
    rnn_step,
    rnn_step_backward,
    running,
)
from .steps import LINES as LINES  # for Python's side

# ---- the loops -----------------------------------------------------------------------------


LINE = 64  # of the cache


@njit
def place(size):
    """Memory for intermediate results, until `done`: Numba gives it back after its last use, and addresses are none."""
    return np.empty(size + LINE, np.uint8)


@njit
def done(memory):
    """A last use."""
    memory[0] = 0


@njit
def aligned(memory):
    """An address in it that begins a line of the cache."""
    return (memory.ctypes.data + LINE - 1) // LINE * LINE


@njit
def project(gates, table, w, bias, units, inputs, first, last, start, steps, pre, like):
    """Pre = W x_t + b of a block of steps, (steps, examples, blocks, gates, vector)."""
    count, width = last - first, blocks_of(units, like) * gates * BYTES
    # Rows of one product are examples; of a batch too small for that, steps.
    over_steps = count < 3 < steps
    outer, inner = (count, steps) if over_steps else (steps, count)
    pitch, out_pitch = (entry(table, X, OVER_T), count * width) if over_steps else (entry(table, X, OVER_N), width)
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
                    NO_STEP,
                    pre + (t * count + n) * width + panels,
                    out_pitch,
                    min(at_once, inner - b),
                    like,
                )


def named(function: Any, step: Any) -> Any:
    """The function with the step's name in its own: by names alone Numba tells what it takes from the disk."""
    function.__name__ = f"{step.__name__}_{function.__name__}"
    function.__qualname__ = function.__name__
    return function


def over_time(step: Any, gates: Any, joint: Any) -> Any:
    """The forward loop of a cell; of the first `joint` gates, z is the sum of both products."""
    gates, joint = np.int64(gates), np.int64(joint)

    def forward(table, packed, T, units, inputs, first, last, size, keep, kind, like):
        """Examples first ... last, in blocks of `size` steps.

        `packed` are the addresses of W and U, and of the biases of the input's and the recurrent share.
        """
        w, u, bias, recurrent_bias = packed
        count, row, blocks = last - first, units * itemsize(like), blocks_of(units, like)
        width, z_pitch, apart = blocks * gates * BYTES, gates * BYTES, gates - joint
        scratch = place(ROWS * gates * BYTES + min(size, T) * count * width)
        z = aligned(scratch)
        pre = z + ROWS * gates * BYTES
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
                        h, pitch = at(table, H, old, n), entry(table, H, OVER_N)
                        uh = u + panels * units
                        multiply(joint, uh, h, pitch, units, here, width, z, z_pitch, rows, like)
                        if apart > 0:
                            uh, out = uh + joint * BYTES * units, z + joint * BYTES
                            b = recurrent_bias + block * apart * BYTES
                            multiply(apart, uh, h, pitch, units, b, NO_STEP, out, z_pitch, rows, like)
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
        done(scratch)

    return njit(named(forward, step))


def back_through_time(step: Any, first_block: Any, row_count: Any) -> Any:
    """The backward loop of a cell; U^T meets `row_count` blocks of dz from `first_block` on."""
    first_block, row_count = np.int64(first_block), np.int64(row_count)

    def backward(table, u, units, first, last, start, end, kind, like):
        """Examples first ... last from step end - 1 down to `start`; u is U^T as `packed`."""
        scratch, row = place(ROWS * BYTES), units * itemsize(like)
        spare = aligned(scratch)
        for t in range(end - 1, start - 1, -1):
            for n in range(first, last):
                runs = running(table, RUNS, t, n)
                for unit in range(0, units, lanes(like)):
                    step(table, t, n, unit * itemsize(like), units - unit, row, runs, kind, like)
            dz, dh = at(table, DZ, t, first) + first_block * row, at(table, DH, NO_STEP, first)
            multiply_inside(
                u,
                dz,
                entry(table, DZ, OVER_N),
                row_count * units,
                dh,
                entry(table, DH, OVER_N),
                dh,
                entry(table, DH, OVER_N),
                last - first,
                units,
                spare,
                like,
            )
        done(scratch)

    return njit(named(backward, step))


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


@njit
def addresses(room, offsets):
    """Of what stands at these offsets from the first line of the cache in `room`."""
    first = aligned(room)
    return first + offsets[0], first + offsets[1], first + offsets[2], first + offsets[3]


def start_forward(table, room, offsets, w, u, b_ih, b_hh, x, h, c, y, kept, valid, gates, joint, like):
    """Fill the table, and pack the weights and biases into `room` -> their addresses.

    Of the first `joint` gates both biases are added before the loop, of the others that of the input's share.
    """
    describe(table, X, x)
    describe(table, H, h)
    describe(table, C, c)
    describe(table, Y, y)
    describe(table, KEPT, kept)
    describe(table, VALID, valid)
    units, packed = w.shape[0] // gates, addresses(room, offsets)
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
    return packed


def start_backward(
    table,
    room,
    offsets,
    w,
    u,
    x_order,
    h_order,
    x,
    dh,
    dc,
    dy,
    dy_c,
    h_prev,
    c_prev,
    r0,
    r1,
    r2,
    r3,
    r4,
    dz,
    valid,
    like,
):
    """Fill the table, and pack U^T, W^T and a row of zeros -> their addresses.

    Their gates stand in the order of the blocks of dz.
    """
    packed = addresses(room, offsets)
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
    return packed


def rnn_forward(table, packed, T, units, inputs, first, last, size, keep, kind, like):
    _rnn(table.ctypes.data, packed, T, units, inputs, first, last, size, keep, kind, like)


def lstm_forward(table, packed, T, units, inputs, first, last, size, keep, kind, like):
    _lstm(table.ctypes.data, packed, T, units, inputs, first, last, size, keep, kind, like)


def gru_forward(table, packed, T, units, inputs, first, last, size, keep, kind, like):
    _gru(table.ctypes.data, packed, T, units, inputs, first, last, size, keep, kind, like)


def rnn_backward(table, packed, units, first, last, start, end, kind, like):
    _rnn_back(table.ctypes.data, packed[0], units, first, last, start, end, kind, like)


def lstm_backward(table, packed, units, first, last, start, end, kind, like):
    _lstm_back(table.ctypes.data, packed[0], units, first, last, start, end, kind, like)


def gru_backward(table, packed, units, first, last, start, end, kind, like):
    _gru_back(table.ctypes.data, packed[0], units, first, last, start, end, kind, like)


def gradients(table, packed, x_gates, h_gates, low, high, N, start, end, size, dw, du, db, dx, like):
    """What the steps start ... end leave to do, for the units low ... high: dx, and the sums over them.

    Added to dw (G*H, I), du (G*H, H) and db (blocks of dz, H), from the last block of `size` steps to the first, as
    segments of whole blocks would be summed. Of dx (T, N, I) a share of rows is written that corresponds to the units.
    """
    t = table.ctypes.data
    units, inputs, row_bytes = du.shape[1], dw.shape[1], du.shape[1] * itemsize(like)
    dz, pitch, rows = at(t, DZ, start, NO_STEP), entry(t, DZ, OVER_N), (end - start) * N
    a_tile = ROWS * DEPTH * itemsize(like)
    scratch = place((DEPTH + ROWS + 1) * BYTES + len(db) * ((high - low + ROWS - 1) // ROWS) * a_tile)
    panel = aligned(scratch)
    spare = panel + DEPTH * BYTES
    tiles = spare + ROWS * BYTES
    x = (entry(t, X_BACK, ORIGIN), entry(t, X_BACK, OVER_T), entry(t, X_BACK, OVER_N))
    h = (entry(t, H_PREV, ORIGIN), entry(t, H_PREV, OVER_T), entry(t, H_PREV, OVER_N))
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
        NO_STEP,
        dx.ctypes.data + (start * N + first) * dx_pitch,
        dx_pitch,
        last - first,
        inputs,
        spare,
        like,
    )
    done(scratch)
