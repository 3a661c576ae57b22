"""Vocabulary, texts and windows."""

import itertools
import json

import numpy as np
import pytest

from polyrnn.data import (
    Vocabulary,
    default_text,
    evaluation_windows,
    load_text,
    split,
    windows,
    windows_per_epoch,
)


def test_there_and_back():
    text = "Größe: 3 μm, 𝄞 \n\t\x00\ud800"
    vocabulary = Vocabulary.of(text)
    ids = vocabulary.encode(text)
    assert ids.dtype == np.int32
    assert [vocabulary.characters[k] for k in ids] == list(text)
    assert vocabulary.decode(ids) == text
    assert vocabulary.decode(ids.tolist()) == text
    assert vocabulary.encode("").shape == (0,)
    assert vocabulary.decode([]) == ""
    assert Vocabulary(json.loads(json.dumps(vocabulary.characters))) == vocabulary
    assert hash(vocabulary) == hash(Vocabulary.of(text[::-1]))
    assert len(vocabulary) == len(set(text))


@pytest.mark.parametrize("character", ["a", "m", "\u20ac", "\U0001f600"])
def test_an_unknown_character_is_named(character):
    with pytest.raises(ValueError, match=rf"unknown character '{character}' \(U\+.* at position 2; the 4 known"):
        Vocabulary.of("bdkz").encode("bz" + character + "b")


def test_bad_ids_are_refused():
    vocabulary = Vocabulary.of("abc")
    with pytest.raises(ValueError, match="ids: 3 at position 1; expected 0 <= id < 3"):
        vocabulary.decode([0, 3])
    with pytest.raises(ValueError, match="ids: -1 at position 0"):
        vocabulary.decode(np.array([-1]))
    with pytest.raises(ValueError, match="dtype float64"):
        vocabulary.decode([0.0])


@pytest.mark.parametrize("characters", ["", "ba", "aab"])
def test_a_bad_vocabulary_is_refused(characters):
    with pytest.raises(ValueError, match="characters="):
        Vocabulary(characters)


def test_load_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("\ufeffeins\r\nzwei über".encode())
    assert load_text(path) == "eins\nzwei über"
    path.write_bytes(b"abc\xff")
    with pytest.raises(ValueError, match=r"text.txt: not a text in UTF-8: byte 0xff at position 3"):
        load_text(str(path))
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"text.txt: the file is empty"):
        load_text(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_text(tmp_path / "nowhere")


def test_default_text():
    text = default_text()
    assert 300_000 < len(text) < 1_000_000
    assert text == default_text()


def test_split():
    train, held = split(default_text())
    assert train + held == default_text()
    assert abs(len(held) / len(train + held) - 0.1) < 1e-5
    assert split("abc", 0.0) == ("abc", "")
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="held_back="):
            split("abc", share)


@pytest.mark.parametrize(("length", "batch", "time"), [(101, 5, 6), (31, 5, 6), (103, 1, 7), (50, 7, 1)])
def test_windows_follow_one_another(length, batch, time):
    ids = np.arange(length, dtype=np.int64)
    count = windows_per_epoch(length, batch, time)
    assert count == (length - 1) // batch // time
    taken = list(itertools.islice(windows(ids, batch, time), 3 * count + 1))
    for k, (x, y, new_epoch) in enumerate(taken):
        assert x.dtype == y.dtype == np.int32
        assert x.shape == y.shape == (time, batch)
        assert x.flags.c_contiguous
        np.testing.assert_array_equal(y, x + 1)
        assert new_epoch == (k % count == 0)
        if not new_epoch:  # the state of the window before belongs here
            np.testing.assert_array_equal(x[0], taken[k - 1].y[-1])
    first = np.concatenate([x for x, _, _ in taken[:count]])
    np.testing.assert_array_equal(first[0], np.arange(batch) * ((length - 1) // batch))
    assert len(np.unique(first)) == first.size, "an id twice in an epoch"
    np.testing.assert_array_equal(taken[0].x, taken[count].x)


def test_a_window_belongs_to_its_taker():
    ids = np.arange(13)
    stream = windows(ids, 2, 3)
    first = next(stream)
    first.x[...] = 0
    assert next(itertools.islice(stream, 1, None)).x.tolist() == [[0, 6], [1, 7], [2, 8]]
    np.testing.assert_array_equal(ids, np.arange(13))


@pytest.mark.parametrize(("length", "batch", "time"), [(101, 5, 6), (2, 3, 4), (103, 1, 7), (50, 7, 1), (13, 5, 50)])
def test_evaluation_predicts_everything_once(length, batch, time):
    ids = np.arange(length)
    predicted, before = [], None
    for x, y, mask in evaluation_windows(ids, batch, time):
        assert x.shape == y.shape == mask.shape == (time, batch)
        assert x.dtype == y.dtype == np.int32
        assert mask.dtype == bool
        np.testing.assert_array_equal(y[mask], x[mask] + 1)
        assert np.all(y[~mask] == 0)
        if before is not None:
            np.testing.assert_array_equal(x[0][mask[0]], before[-1][mask[0]])
        before = y
        predicted += y[mask].tolist()
    assert sorted(predicted) == list(range(1, length))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.arange(30), 5, 6), "30 characters are too few .*batch=5 streams x time=6 steps, which needs 31"),
        ((np.arange(0), 1, 1), "0 characters are too few"),
        ((np.arange(30), 0, 6), "batch=0: expected an int >= 1"),
        ((np.arange(30), 2, 1.5), "time=1.5"),
        ((np.zeros(30), 2, 3), "ids: dtype float64"),
        ((np.zeros((5, 6), dtype=int), 2, 3), r"shape \(5, 6\)"),
        (([1, 2, 3, 4], 1, 1), "'list'"),
    ],
)
def test_windows_refuse(arguments, words):
    with pytest.raises(ValueError, match=words):
        windows(*arguments)


def test_evaluation_refuses_a_single_character():
    with pytest.raises(ValueError, match="ids: 1 characters; expected at least 2"):
        evaluation_windows(np.arange(1), 1, 1)
