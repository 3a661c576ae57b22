"""Random masks with the same bits on every backend: a counter-based generator in integer arithmetic.

Threefry-2x32 with 20 rounds: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC
2011). A word of random bits is a function of a key and a counter, so that nothing is carried from draw to
draw.

The words are int32, whose sums wrap around in every library, and arrays of at least one element: NumPy warns
when a scalar overflows, and PyTorch's uint32 lacks most operations.
"""

from math import prod
from numbers import Integral
from typing import Any, TypeAlias

__all__ = ["fold", "keep_mask", "threefry"]

Array: TypeAlias = Any

_PARITY = 0x1BD11BDA
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry(xp: Any, key: Array, counter: tuple[Array, Array]) -> tuple[Array, Array]:
    """Two words of random bits for each counter.

    Parameters
    ----------
    xp : module
        Array namespace.
    key : array, int32, shape (2,)
    counter : pair of arrays, int32, of at least one axis
        Their shapes are broadcast together.

    Returns
    -------
    word0, word1 : arrays, int32, of the counters' common shape

    Examples
    --------
    >>> import numpy as np
    >>> zero = np.zeros(1, dtype=np.int32)
    >>> [hex(int(word[0]) & 0xFFFFFFFF) for word in threefry(np, np.zeros(2, dtype=np.int32), (zero, zero))]
    ['0x6b200159', '0x99ba4efe']
    """
    key0, key1 = key[0:1], key[1:2]
    keys = (key0, key1, key0 ^ key1 ^ _PARITY)
    # Of the common shape, and new: augmented assignment below saves memory where a library can.
    x0 = counter[0] + key0 + xp.zeros_like(counter[1])
    x1 = counter[1] + key1 + xp.zeros_like(counter[0])
    for group in range(5):
        for bits in _ROTATIONS[group % 2]:
            x0 += x1
            upper = x1 >> (32 - bits)  # copies the sign into the upper bits of an int32;
            upper &= (1 << bits) - 1  # this takes it out again
            x1 = x1 << bits
            x1 |= upper
            x1 ^= x0
        x0 += keys[(group + 1) % 3]
        x1 += keys[(group + 2) % 3] + (group + 1)
    return x0, x1


def fold(xp: Any, seed: Any, data: Any, device: Any = None) -> Array:
    """A new key from a seed or key and a number: a stream of its own for each step, module or layer.

    Parameters
    ----------
    xp : module
        Array namespace.
    seed : int, or integer array
        Of up to 64 bits; or a key, int32 of shape (2,). A number gives the same key as a Python int and as an
        array of one element, also one that is traced by `jax.jit`.
    data : int, or integer array
        What tells the streams apart; the same forms.
    device : object, optional
        Where to put the key of two Python ints.

    Returns
    -------
    array, int32, shape (2,)

    Raises
    ------
    TypeError
        If `seed` or `data` is no signed integer.
    ValueError
        If it does not fit in 64 bits, or is an array of another shape.

    Examples
    --------
    >>> import numpy as np
    >>> key = fold(np, 7, 3)
    >>> bool(np.all(key == fold(np, np.asarray(7), np.asarray(3))))
    True
    >>> fold(np, key, 0).shape
    (2,)
    """
    key = two_words(xp, seed, "seed", device)
    data = two_words(xp, data, "data", device)
    return xp.concat(threefry(xp, key, (data[0:1], data[1:2])))


def keep_mask(
    xp: Any, key: Array, shape: tuple[int, ...], rate: float, device: Any = None, numbers: Array | None = None
) -> Array:
    """A boolean mask, True (kept) with probability 1 - rate.

    Element (t, j), `j` counting through the axes after the first, takes word j % 2 of counter (t, j // 2): a
    mask of fewer rows is the beginning of a mask of more. The probability is exact to 2^-32.

    Parameters
    ----------
    xp : module
        Array namespace.
    key : array, int32, shape (2,)
        From `fold`.
    shape : tuple of int
    rate : float
        The probability of False, 0 <= rate <= 1.
    device : object, optional
    numbers : array, int32, shape (shape[0],), optional
        The numbers t of the rows, by default 0, 1, ...: so a part of a mask, or one in another order, can be had.

    Returns
    -------
    array, bool, of that shape

    Raises
    ------
    ValueError
        If the rate is not between 0 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> key = fold(np, 0, 0)
    >>> mask = keep_mask(np, key, (5, 3, 7), rate=0.25)
    >>> mask.shape, bool(np.all(mask[:2] == keep_mask(np, key, (2, 3, 7), rate=0.25)))
    ((5, 3, 7), True)
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate={rate!r}: expected a probability, 0 <= rate <= 1")
    rows, rest = (shape[0], prod(shape[1:])) if shape else (1, 1)
    numbers = xp.arange(rows, dtype=xp.int32, device=device) if numbers is None else numbers
    row = xp.reshape(numbers, (rows, 1))
    pair = xp.reshape(xp.arange((rest + 1) // 2, dtype=xp.int32, device=device), (1, (rest + 1) // 2))
    # Integers are compared: scaled to floats, the last bits would differ between compilers.
    dropped = round(rate * 2**32)  # of the 2^32 words, the smallest so many
    if dropped == 2**32:
        return xp.zeros(shape, dtype=xp.bool, device=device)
    kept = xp.stack([word >= dropped - 2**31 for word in threefry(xp, key, (row, pair))], axis=-1)
    return xp.reshape(xp.reshape(kept, (rows, 2 * pair.shape[1]))[:, :rest], shape)


def two_words(xp: Any, number: Any, name: str, device: Any) -> Array:
    """A number of 64 bits as two's complement: its low and its high word."""
    if isinstance(number, Integral) and not isinstance(number, bool):
        number = int(number)
        if not -(2**63) <= number < 2**64:
            raise ValueError(f"{name}={number}: expected an integer of at most 64 bits")
        words = [((word & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000 for word in (number, number >> 32)]
        return xp.asarray(words, dtype=xp.int32, device=device)
    if not hasattr(number, "dtype"):
        raise TypeError(f"{name}={number!r}: expected an int, or an integer array")
    number = xp.asarray(number)
    if not xp.isdtype(number.dtype, "signed integer"):
        raise TypeError(f"{name}: an array of dtype {number.dtype}; expected a signed integer such as int32")
    if number.shape == (2,) and number.dtype == xp.int32:
        return number
    if number.shape not in ((), (1,)):
        raise ValueError(
            f"{name}: an array of shape {tuple(number.shape)} and dtype {number.dtype}; "
            "expected one number, or a key: int32 of shape (2,)"
        )
    number = xp.reshape(number, (1,))
    if number.dtype == xp.int64:
        low = ((number & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000
        return xp.concat([xp.astype(low, xp.int32), xp.astype(number >> 32, xp.int32)])
    return xp.concat([xp.astype(number, xp.int32), xp.astype(number >> 31, xp.int32)])
