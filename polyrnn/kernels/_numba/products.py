"""Compiled for all cells alike: tanh and sigmoid of vectors, weights in panels, and the products of a recurrence.

Examples are rows here, as at the door: the units of a layer stand side by side in memory and fill the lanes of a
vector. Weights are packed once a call into panels, in the order in which the product reads them:

    a panel  (K, vector): of each of K numbers that are multiplied, the weights of a vector of units
    packed   (blocks, G, K, vector): of each vector of units, the panels of all gates

Units beyond the last have the weight 0. All addresses, pitches (from row to row) and steps are bytes.
"""

from __future__ import annotations

from .simd import (
    BYTES,
    ROWS,
    fma,
    get,
    itemsize,
    lanes,
    least,
    load,
    most,
    njit,
    power_of_two,
    put,
    put_whole,
    store,
    whole,
    zero,
)
from .tile import four_panels, tile, two_panels

DEPTH = 256  # steps and examples summed at once in a gradient of weights: their panel stays in the first cache


@njit
def rational_tanh(x, like):
    """The hyperbolic tangent in float32, x P(x^2) / Q(x^2), to 3 ulp; `tests/stored/make_tanh.py` makes the fit."""
    x = most(least(x, 8.9), -8.9)
    u = x * x
    p = fma(u, 1.353481238e-08, 2.073801988e-05)
    q = fma(u, 7.849946542e-07, 3.298416268e-04)
    p = fma(p, u, 3.503391054e-03)
    q = fma(q, u, 2.590664290e-02)
    p = fma(p, u, 1.338758767e-01)
    q = fma(q, u, 4.672090411e-01)
    p = fma(p, u, 1.0)
    q = fma(q, u, 1.0)
    return most(least(p * x / q, 1.0), -1.0)


@njit
def expm1(x, like):
    """exp(x) - 1 in float64, with a relative error of an ulp or two at all x.

    x = n ln 2 + r, |r| <= ln(2)/2, and exp(x) - 1 = 2^n (exp(r) - 1) + (2^n - 1), where nothing cancels. The series of
    exp(r) - 1 ends where its next term is below an ulp. ln 2 is subtracted in two parts, the first of which has so few
    digits that its multiples are exact. x is cut where tanh(x / 2) is 1 to the last bit.
    """
    x = most(least(x, 38.5), -38.5)
    shifted = fma(x, 1.4426950408889634, 6755399441055744.0)  # 1.5 * 2^52: adding it rounds to a whole number
    n = shifted - 6755399441055744.0
    r = fma(n, -1.9082149292705877e-10, fma(n, -0.6931471803691238, x))
    p = fma(r, 1 / 87178291200, 1 / 6227020800)
    p = fma(p, r, 1 / 479001600)
    p = fma(p, r, 1 / 39916800)
    p = fma(p, r, 1 / 3628800)
    p = fma(p, r, 1 / 362880)
    p = fma(p, r, 1 / 40320)
    p = fma(p, r, 1 / 5040)
    p = fma(p, r, 1 / 720)
    p = fma(p, r, 1 / 120)
    p = fma(p, r, 1 / 24)
    p = fma(p, r, 1 / 6)
    p = fma(p, r, 0.5)
    p = fma(p * r, r, r)
    scale = power_of_two(shifted)
    return fma(scale, p, scale - 1)


@njit
def tanh(x, like):
    """The hyperbolic tangent; in float64 (exp(2x) - 1) / (exp(2x) + 1)."""
    if itemsize(like) == 4:
        return rational_tanh(x, like)
    e = expm1(x + x, like)
    return e / (e + 2)


@njit
def sigmoid(x, like):
    """The logistic function, (tanh(x/2) + 1) / 2; in float64 exp(x) / (exp(x) + 1)."""
    if itemsize(like) == 4:
        return fma(rational_tanh(x * 0.5, like), 0.5, 0.5)
    e = expm1(x, like)
    return (e + 1) / (e + 2)


@njit
def blocks_of(units, like):
    """Vectors that hold so many units."""
    return (units + lanes(like) - 1) // lanes(like)


@njit
def pack(source, row_pitch, step, units, gates, K, out, like):
    """Weights (gates * units, K) of any strides as `packed`; a bias is one of K = 1, a row of sums to start from."""
    width, size = lanes(like), itemsize(like)
    for block in range(blocks_of(units, like)):
        first = block * width
        count = min(width, units - first)
        for gate in range(gates):
            row = source + (gate * units + first) * row_pitch
            for k in range(K):
                at = row + k * step
                for lane in range(count):
                    put(out + lane * size, get(at + lane * row_pitch, like))
                for lane in range(count, width):
                    put(out + lane * size, zero(like))
                out += BYTES


@njit
def pack_transposed(weight, order, out, like):
    """The transpose of weight (G * H, columns) as panels, its columns being the units, its gates in this order."""
    width, size, step = lanes(like), itemsize(like), weight.strides[1]
    columns, H = weight.shape[1], weight.shape[0] // len(order)
    for first in range(0, columns, width):
        count = min(width, columns - first)
        for gate in order:
            row = weight.ctypes.data + gate * H * weight.strides[0] + first * step
            for _ in range(H):
                if count == width and step == size:
                    put_whole(out, whole(row, like))
                else:
                    for lane in range(width):
                        put(out + lane * size, get(row + lane * step, like) if lane < count else zero(like))
                row += weight.strides[0]
                out += BYTES


@njit
def rows_at_once(count):
    """As many rows as the registers hold, but so that none of the products has few."""
    times = (count + ROWS - 1) // ROWS
    return (count + times - 1) // times if count > 0 else 1


@njit
def multiply(panels, w, x, x_pitch, K, start, start_pitch, out, out_pitch, rows, like):
    """Of each row: out = start + w x, in neighbouring panels, K numbers of x side by side."""
    panel, size, p = K * BYTES, itemsize(like), 0
    if rows == 1:
        p = panels // 4 * 4
        if p > 0:
            four_panels(p // 4, w, panel, x, size, x_pitch, K, start, start_pitch, out, out_pitch, rows, like)
    elif rows == 2:
        p = panels // 2 * 2
        if p > 0:
            two_panels(p // 2, w, panel, x, size, x_pitch, K, start, start_pitch, out, out_pitch, rows, like)
    if p < panels:
        w, start, out = w + p * panel, start + p * BYTES, out + p * BYTES
        tile(panels - p, w, panel, x, size, x_pitch, K, start, start_pitch, out, out_pitch, rows, like)


@njit
def copy_rows(source, source_pitch, out, out_pitch, rows, count, like):
    size = itemsize(like)
    for row in range(rows):
        for k in range(count):
            put(out + row * out_pitch + k * size, get(source + row * source_pitch + k * size, like))


@njit
def tile_inside(w, x, x_step, x_pitch, K, start, start_pitch, out, out_pitch, rows, count, spare, like):
    """One panel's product into rows that have place for `count` units only; `spare` holds ROWS vectors."""
    if count >= lanes(like):
        tile(1, w, K, x, x_step, x_pitch, K, start, start_pitch, out, out_pitch, rows, like)
    else:
        copy_rows(start, start_pitch, spare, BYTES, rows, count, like)
        tile(1, w, K, x, x_step, x_pitch, K, spare, BYTES, spare, BYTES, rows, like)
        copy_rows(spare, BYTES, out, out_pitch, rows, count, like)


@njit
def multiply_inside(w, x, x_pitch, K, start, start_pitch, out, out_pitch, rows, units, spare, like):
    """Of each row: out = start + w x for all units, which stand side by side in start and out."""
    size = itemsize(like)
    width, at_once = lanes(like), rows_at_once(rows)
    for block in range(blocks_of(units, like)):
        at, count = block * BYTES, units - block * width
        row = 0
        while row < rows:
            some = min(at_once, rows - row)
            tile_inside(
                w + at * K,
                x + row * x_pitch,
                size,
                x_pitch,
                K,
                start + row * start_pitch + at,
                start_pitch,
                out + row * out_pitch + at,
                out_pitch,
                some,
                count,
                spare,
                like,
            )
            row += some


# ---- gradients of weights --------------------------------------------------------------


@njit
def gather(source, t_pitch, n_pitch, N, first, depth, offset, count, width, out, like):
    """Rows `first` ... of a sequence (T, N, ...), `count` numbers of each from `offset` on, as (depth, width)."""
    size = itemsize(like)
    t, n = first // N, first % N
    for _ in range(depth):
        at = source + t * t_pitch + n * n_pitch + offset * size
        k = 0
        while k + lanes(like) <= count:
            store(out + k * size, load(at + k * size, lanes(like), like), lanes(like), like)
            k += lanes(like)
        while k < count:
            put(out + k * size, get(at + k * size, like))
            k += 1
        while k < width:
            put(out + k * size, zero(like))
            k += 1
        out += width * size
        n += 1
        if n == N:
            t, n = t + 1, 0


@njit
def add_products(tiles, gates, units, low, high, operand, columns, N, first, depth, out, panel, spare, like):
    """Add sum_r dz_r operand_r^T over `depth` rows r = (t, n) to units low ... high of each gate of out (G*H, columns).

    `tiles` holds dz as `pack_rows` leaves it, and `gates` for each gate of out its block there; `operand` is address,
    pitch over T and pitch over N.
    """
    size, width = itemsize(like), lanes(like)
    source, t_pitch, n_pitch = operand
    a_tile = ROWS * DEPTH * size
    per_gate = (high - low + ROWS - 1) // ROWS * a_tile
    for block in range(blocks_of(columns, like)):
        count = min(width, columns - block * width)
        gather(source, t_pitch, n_pitch, N, first, depth, block * width, count, width, panel, like)
        for gate in range(len(gates)):
            dz = tiles + gates[gate] * per_gate
            for row in range(low, high, ROWS):
                here = out + ((gate * units + row) * columns + block * width) * size
                pitch, rows = columns * size, min(ROWS, high - row)
                tile_inside(panel, dz, ROWS * size, size, depth, here, pitch, here, pitch, rows, count, spare, like)
                dz += a_tile


@njit
def pack_rows(dz, pitch, dz_blocks, units, low, high, depth, out, like):
    """Numbers low ... high of each block of `depth` rows of dz, as tiles (depth, ROWS).

    Whole vectors are copied; what is too much of one, the next covers. Behind dz and out there is place for a vector.
    """
    size = itemsize(like)
    for block in range(dz_blocks):
        for row in range(low, high, ROWS):
            source = dz + (block * units + row) * size
            for _ in range(depth):
                for k in range(0, ROWS, lanes(like)):
                    put_whole(out + k * size, whole(source + k * size, like))
                source += pitch
                out += ROWS * size
            out += (DEPTH - depth) * ROWS * size


@njit
def add_rows(dz, pitch, depth, low, high, out, like):
    """Add numbers low ... high of `depth` rows to out: the gradient of a bias."""
    size = itemsize(like)
    for k in range(low, high, lanes(like)):
        count = high - k
        total = load(out + k * size, count, like)
        for row in range(depth):
            total = total + load(dz + row * pitch + k * size, count, like)
        store(out + k * size, total, count, like)
