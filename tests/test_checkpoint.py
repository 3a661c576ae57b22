"""Files: what goes in comes out, and nothing else is taken for a model or left half-written."""

import errno
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import subjects

from polyrnn.checkpoint import Checkpoint, load, load_extra, save, write_atomically

CONFIG = {"cell": "lstm", "sizes": [5, 3], "characters": " aß𝄞\n", "dropout": 0.25, "none": None}


subject = subjects.without_kernels


def params(dtype="float32"):
    random = np.random.default_rng(0)
    shapes = {"lstm.weight_ih_l0": (7, 3), "bias": (5,), "scalar": (), "empty": (0, 3)}
    return {name: np.asarray(random.normal(size=shape), dtype=dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_there_and_back(subject, tmp_path, dtype):
    arrays, path = params(dtype), tmp_path / "model.safetensors"
    save(path, subject.array(arrays), CONFIG)
    assert os.listdir(tmp_path) == ["model.safetensors"]
    found = load(str(path))
    assert isinstance(found, Checkpoint)
    assert found.config == CONFIG
    assert found.params.keys() == arrays.keys()
    for name, array in arrays.items():
        assert isinstance(found.params[name], np.ndarray)
        assert found.params[name].dtype == array.dtype
        np.testing.assert_array_equal(found.params[name], array)


def test_any_memory_layout(tmp_path):
    """The format takes memory as it lies: rows with gaps, columns first and big-endian must be put right."""
    whole = np.arange(35, dtype="float64").reshape(5, 7)
    arrays = {"transposed": whole.T, "strided": whole[::2, ::3], "reversed": whole[::-1], "big": whole.astype(">f8")}
    save(tmp_path / "model", arrays, {})
    params = load(tmp_path / "model").params
    assert params.keys() == arrays.keys()
    for name, array in params.items():
        assert array.dtype == np.float64, name  # of this machine's byte order
        np.testing.assert_array_equal(array, arrays[name])


def test_extra_arrays_are_kept_apart(tmp_path):
    moments = {"mean.bias": np.ones(5), "count": np.asarray(3, dtype=np.int32)}
    save(tmp_path / "model", params(), CONFIG, extra=moments)
    assert load(tmp_path / "model").params.keys() == params().keys()
    extra = load_extra(tmp_path / "model")
    assert extra.keys() == moments.keys()
    assert extra["count"] == 3
    with pytest.raises(ValueError, match="the name 'extra:x'"):
        save(tmp_path / "model", {"extra:x": np.ones(2)}, {})


@pytest.mark.parametrize("config", [{"a": {1, 2}}, {"a": float("nan")}, {"a": np.ones(2)}, ["a"]])
def test_a_config_that_is_not_json_is_refused(tmp_path, config):
    with pytest.raises(TypeError, match="config: "):
        save(tmp_path / "model", params(), config)
    assert os.listdir(tmp_path) == []


def test_what_is_no_array_is_refused(tmp_path):
    with pytest.raises(TypeError, match="params: builtins"):
        save(tmp_path / "model", {"w": [1.0]}, {})


@pytest.mark.parametrize("dtype", ["complex128", "complex64", "object", "U3", "datetime64[s]"])
def test_a_dtype_that_cannot_be_stored_is_refused(tmp_path, dtype):
    bad = np.zeros(2, dtype=dtype)
    words = f"dtype {re.escape(str(bad.dtype))}; expected floating point numbers, integers or booleans"
    with pytest.raises(TypeError, match=rf"params\['w'\]: {words}"):
        save(tmp_path / "model", {"good": np.ones(2), "w": bad}, {})
    with pytest.raises(TypeError, match=rf"extra\['w'\]: {words}"):
        save(tmp_path / "model", params(), {}, extra={"w": bad})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["number", "truth value", "bytes", "None", "file"])
def test_what_is_no_path_is_refused(tmp_path, kind):
    with open(tmp_path / "open", "wb+") as file:
        number = file.fileno()
        path = {"number": number, "truth value": True, "bytes": b"open", "None": None, "file": file}[kind]
        for call in (load, load_extra, lambda path: save(path, params(), {})):
            with pytest.raises(TypeError, match=f"path={re.escape(repr(path))}: expected a str or a path"):
                call(path)
        with pytest.raises(TypeError, match="expected a str or a path"), write_atomically(path):
            pass
        file.write(b"it is still open")
    assert os.listdir(tmp_path) == ["open"]


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("unpickled"),))


def test_foreign_and_damaged_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model"
    save(path, params(), CONFIG)
    good = path.read_bytes()
    bad = {
        "empty": b"",
        "short": good[:5],
        "in the header": good[:60],
        "in the data": good[:-1],
        "longer": good + b"x",
        "text": b"once upon a time there was a model" * 9,
        "pickle": pickle.dumps(Trap()),
    }
    for content in bad.values():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"model: not a safetensors file, or damaged .*expected a model"):
            load(path)
    assert not Path("unpickled").exists()


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (None, "format=None"),
        ({"format": "pt"}, "format='pt'; expected a model that polyrnn saved"),
        ({"format": "polyrnn", "version": "2", "config": "{}"}, "version='2'; this polyrnn reads version '1'"),
        ({"format": "polyrnn", "version": "1"}, "no configuration"),
        ({"format": "polyrnn", "version": "1", "config": "{"}, "no configuration in its metadata, or damaged"),
        ({"format": "polyrnn", "version": "1", "config": "[]"}, "its configuration is a list"),
    ],
)
def test_other_safetensors_files(tmp_path, metadata, words):
    path = tmp_path / "model"
    path.write_bytes(safetensors.numpy.save({"w": np.ones(3)}, metadata))
    for read in (load, load_extra):
        with pytest.raises(ValueError, match=f"model: .*{words}"):
            read(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such file; expected a model"):
        load(tmp_path / "nowhere")
    with pytest.raises(IsADirectoryError, match="cannot be read"):
        load(tmp_path)


def test_places_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("old")
    with pytest.raises(FileNotFoundError, match=r"nowhere/model: cannot be written: No such file or directory"):
        save(tmp_path / "nowhere" / "model", params(), {})
    with pytest.raises(NotADirectoryError, match=r"file/model: cannot be written"):
        save(tmp_path / "file" / "model", params(), {})
    with pytest.raises(IsADirectoryError, match="a folder; expected the name of a file"):
        save(tmp_path, params(), {})

    def denied(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(PermissionError, match=r"model: cannot be written: Permission denied \(folder "):
        save(tmp_path / "model", params(), {})
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file(tmp_path, failure):
    path = tmp_path / "history.csv"
    path.write_text("old")

    def write():
        with write_atomically(path, "w", newline="") as file:
            file.write("half")
            raise failure

    with pytest.raises(failure):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["history.csv"]


def test_a_failing_rename_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path / "model", params(), {})
    assert os.listdir(tmp_path) == []


def test_text_links_and_modes(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    with write_atomically(link, "w", newline="") as file:
        file.write("größer\r\n")
    assert link.is_symlink()
    assert target.read_bytes() == "größer\r\n".encode()
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert target.stat().st_mode == plain.stat().st_mode, "as any new file, not private like a temporary one"
    with pytest.raises(ValueError, match="mode='a'"), write_atomically(target, "a"):
        pass
