"""Parts of the cells' variants, each with its derivative below; a part that is absent (None) changes nothing.

Arrays are (..., rows, N), the columns being examples.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

from .._door import wide

EPSILON = 1e-5  # of the layer normalisation, as PyTorch's


def clip(xp: Any, a: Any, limit: float | None) -> Any:
    """a, but not beyond +-limit."""
    return a if limit is None else xp.clip(a, -limit, limit)


def clip_backward(xp: Any, dz: Any, z: Any, limit: float | None) -> Any:
    """The gradient of a, of that of z = clip(a): it goes through where a was within the limits."""
    return dz if limit is None else xp.where(xp.abs(z) < limit, dz, xp.zeros_like(dz))


def add_scaled(a: Any, vector: Any, b: Any) -> Any:
    """A + vector * b, the vector (rows,) being the same for all examples."""
    return a if vector is None else a + vector[..., None] * b


class Normal(NamedTuple):
    """What a normalisation leaves: the normalised values, and what the centred ones were multiplied by, in groups.

    Of half precision both are float32: squares would overflow, means of many rows lose their digits.
    """

    values: Any
    scales: tuple


def normalize(xp: Any, a: Any, gain: Any, groups: tuple[int, ...] = (1,)) -> tuple[Any, Normal | None]:
    """The rows normalised: gain * (a - mean) / sqrt(variance + EPSILON), in groups with these shares of the rows.

    Source: J. L. Ba, J. R. Kiros and G. E. Hinton, Layer normalization, arXiv:1607.06450 (2016).
    """
    if gain is None:
        return a, None
    values, scales = [], []
    for part in split(wide(xp, a), groups):
        centred = part - xp.mean(part, axis=-2, keepdims=True)
        scale = 1 / xp.sqrt(xp.mean(centred * centred, axis=-2, keepdims=True) + EPSILON)
        values.append(centred * scale)
        scales.append(scale)
    normal = Normal(values[0] if len(values) == 1 else xp.concat(values, axis=-2), tuple(scales))
    return xp.astype(wide(xp, gain)[..., None] * normal.values, a.dtype, copy=False), normal


def normalize_backward(xp: Any, dn: Any, gain: Any, normal: Normal | None, groups: tuple[int, ...] = (1,)) -> Any:
    """With v the normalised values and s the scale: da = s (dv - mean(dv) - v mean(dv v)), dv = gain dn."""
    if normal is None:
        return dn
    found = []
    dv_all = wide(xp, gain)[..., None] * wide(xp, dn)
    parts = zip(split(dv_all, groups), split(normal.values, groups), normal.scales, strict=True)
    for dv, v, scale in parts:
        mean, slope = xp.mean(dv, axis=-2, keepdims=True), xp.mean(dv * v, axis=-2, keepdims=True)
        found.append((dv - mean - v * slope) * scale)
    return xp.astype(found[0] if len(found) == 1 else xp.concat(found, axis=-2), dn.dtype, copy=False)


def split(a: Any, groups: tuple[int, ...]) -> list[Any]:
    """The rows of a in groups of these shares."""
    if len(groups) == 1:
        return [a]
    share = a.shape[-2] // sum(groups)
    starts = [share * sum(groups[:k]) for k in range(len(groups) + 1)]
    return [a[..., start:end, :] for start, end in itertools.pairwise(starts)]
