"""Threefry against the published vectors and a scalar transcription; the same bits on every namespace."""

import math

import numpy as np
import pytest
import subjects

from polyrnn.masks import fold, keep_mask, threefry

# Random123's known answers of threefry2x32 with 20 rounds: counter, key, result.
KNOWN = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


subject = subjects.without_kernels


def signed(words):
    return np.array(words, dtype=np.uint32).view(np.int32)


def reference(key, counter):
    """The paper's algorithm on Python's integers."""
    wrap = 0xFFFFFFFF
    keys = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    x, y = (counter[0] + keys[0]) & wrap, (counter[1] + keys[1]) & wrap
    for r in range(20):
        turn = (13, 15, 26, 6, 17, 29, 16, 24)[r % 8]
        x = (x + y) & wrap
        y = ((y << turn) & wrap | y >> (32 - turn)) ^ x
        if r % 4 == 3:
            s = r // 4 + 1
            x, y = (x + keys[s % 3]) & wrap, (y + keys[(s + 1) % 3] + s) & wrap
    return x, y


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(subject, counter, key, expected):
    assert reference(key, counter) == expected
    c = subject.array(signed(counter))
    words = subject.function(lambda k, c: threefry(subject.xp, k, (c[0:1], c[1:2])))(subject.array(signed(key)), c)
    for word, value in zip(words, expected, strict=True):
        subject.formed(word, "int32", (1,))
        assert int(subject.host(word)[0]) & 0xFFFFFFFF == value


def reference_mask(seed, step, module, shape, rate):
    def words(number):
        return number & 0xFFFFFFFF, (number >> 32) & 0xFFFFFFFF

    key = reference(reference(words(seed), words(step)), words(module))
    rest = math.prod(shape[1:])
    flat = [reference(key, (t, j // 2))[j % 2] for t in range(shape[0] if shape else 1) for j in range(rest)]
    kept = [(w if w < 2**31 else w - 2**32) >= round(rate * 2**32) - 2**31 for w in flat]
    return np.array(kept, dtype=bool).reshape(shape)


@pytest.mark.parametrize(
    ("seed", "shape"),
    [
        (0, (5, 3, 7)),
        (20_261_122, (7, 2)),
        (-3, (11,)),
        (2**63 + 12345, ()),
        (1, (0, 3)),
        (2, (3, 0, 2)),
        (3, (1, 1)),
    ],
)
def test_a_mask_is_the_scalar_one(subject, seed, shape):
    xp, device = subject.xp, subject.backend.device

    def draw(step):
        key = fold(xp, fold(xp, seed, step, device), 2, device)
        return keep_mask(xp, key, shape, 0.375, device)

    mask = subject.function(draw)(subject.array(np.asarray(13, dtype=np.int32)))
    subject.formed(mask, "bool", shape)
    np.testing.assert_array_equal(subject.host(mask), reference_mask(seed, 13, 2, shape, 0.375))


@pytest.mark.parametrize("value", [5, -5, 2**31, -(2**40) + 3])
def test_a_number_gives_one_key_in_every_form(subject, value):
    xp, device = subject.xp, subject.backend.device
    expected = subject.host(fold(xp, value, 7, device))
    forms = [np.asarray(value, dtype=np.int64), np.asarray([value], dtype=np.int64)]
    forms += [np.asarray(value, dtype=np.int32)] if -(2**31) <= value < 2**31 else []
    for form in forms:
        key = subject.function(lambda seed: fold(xp, seed, 7, device))(subject.array(form))
        subject.formed(key, "int32", (2,))
        np.testing.assert_array_equal(subject.host(key), expected)
    key = subject.function(lambda data: fold(xp, 7, data, device))(subject.array(forms[0]))
    np.testing.assert_array_equal(subject.host(key), subject.host(fold(xp, 7, value, device)))
    np.testing.assert_array_equal(subject.host(fold(xp, np.int64(value), 7, device)), expected)


def test_streams_differ():
    keys = {tuple(fold(np, seed, data).tolist()) for seed in range(40) for data in range(40)}
    assert len(keys) == 1600
    assert not np.array_equal(fold(np, 1, 0), fold(np, 1 + 2**32, 0)), "the high word counts"


def test_fewer_rows_are_the_beginning_of_more():
    key = fold(np, 5, 1)
    np.testing.assert_array_equal(keep_mask(np, key, (7, 3, 5), 0.5)[:3], keep_mask(np, key, (3, 3, 5), 0.5))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_statistics(rate):
    kept = keep_mask(np, fold(np, 2026, 4), (211, 1009), rate)
    share = np.where(kept, 1.0, 0.0) - (1 - rate)
    sigma = math.sqrt(rate * (1 - rate))
    assert abs(share.mean()) < 5 * sigma / math.sqrt(share.size)
    assert abs(share.mean(axis=0)).max() < 6 * sigma / math.sqrt(211)
    assert abs(share.mean(axis=1)).max() < 6 * sigma / math.sqrt(1009)
    other = np.where(keep_mask(np, fold(np, 2026, 5), (211, 1009), rate), 1.0, 0.0) - (1 - rate)
    neighbours = [(share, other), (share[1:], share[:-1]), (share[:, 1:], share[:, :-1])]
    for a, b in neighbours:
        assert abs((a * b).mean()) < 5 * sigma**2 / math.sqrt(a.size)


def test_the_ends_of_the_rate(subject):
    key, device = fold(subject.xp, 3, 0, subject.backend.device), subject.backend.device
    for rate, kept in ((0, True), (0.0, True), (1, False), (1 - 2**-40, False)):
        mask = subject.function(lambda key: keep_mask(subject.xp, key, (3, 5), rate, device))(key)  # noqa: B023
        subject.formed(mask, "bool", (3, 5))
        assert np.all(subject.host(mask) == kept)


@pytest.mark.parametrize(
    ("seed", "error", "words"),
    [
        (2**64, ValueError, "seed=18446744073709551616: expected an integer of at most 64 bits"),
        (True, TypeError, "seed=True"),
        (0.5, TypeError, "seed=0.5: expected an int"),
        (None, TypeError, "seed=None"),
        (np.zeros(2), TypeError, "seed: an array of dtype float64; expected a signed integer"),
        (np.zeros(2, dtype=np.uint32), TypeError, "dtype uint32"),
        (np.zeros(2, dtype=np.int64), ValueError, r"shape \(2,\) and dtype int64"),
        (np.zeros((3, 2), dtype=np.int32), ValueError, r"shape \(3, 2\)"),
    ],
)
def test_a_bad_seed_is_refused(seed, error, words):
    with pytest.raises(error, match=words):
        fold(np, seed, 0)


@pytest.mark.parametrize("rate", [-0.1, 1.5, math.nan])
def test_a_bad_rate_is_refused(rate):
    with pytest.raises(ValueError, match="rate="):
        keep_mask(np, fold(np, 0, 0), (2, 3), rate)
