"""PyTorch's weights in and out, against what PyTorch itself saved and computed (stored/make_torch_modules.py)."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import polyrnn as pr
from polyrnn import _safetensors
from polyrnn.interop import torch as converter

STORED = Path(__file__).parent / "stored"
FILE = STORED / "torch_modules.safetensors"
LAYERS = {
    "encoder.lstm": pr.LSTM(5, 11, num_layers=2, bidirectional=True, batch_first=True),
    "encoder.project": pr.LSTM(5, 11, proj_size=3),
    "gru": pr.GRU(5, 7, bias=False, bidirectional=True),
    "relu": pr.RNN(5, 7, nonlinearity="relu"),
    "decoder.0": pr.LSTM(5, 7),
    "decoder.1": pr.GRU(5, 11),
    "decoder.2": pr.RNN(5, 3),
}
OPTIONS = {"encoder.lstm": {"batch_first": True}, "relu": {"nonlinearity": "relu"}}


@pytest.mark.parametrize("name", LAYERS)
def test_a_saved_module_gives_what_pytorch_gave(name):
    results = {key.removeprefix(f"{name}/"): a for key, a in load_file(FILE.with_stem("torch_modules_results")).items()}
    results = {key: a for key, a in results.items() if "/" not in key}
    layer, params = converter.load(FILE, name, **OPTIONS.get(name, {}))
    assert layer == LAYERS[name]
    state = tuple(results[part] for part in ("h0", "c0") if part in results)
    y, after = layer(params, results["x"], state if len(state) > 1 else state[0])
    np.testing.assert_allclose(y, results["y"], rtol=0, atol=1e-6)
    for part, array in zip("hc", after if isinstance(after, tuple) else (after,), strict=False):
        np.testing.assert_allclose(array, results[part], rtol=0, atol=1e-6)


def test_prefixes_are_found_and_nothing_else():
    assert set(converter.find(FILE)) == set(LAYERS)
    with pytest.raises(ValueError, match=r"7 recurrent layers, 'decoder.0', .*name one"):
        converter.load(FILE)
    with pytest.raises(ValueError, match="no recurrent layer of the name 'lstm'"):
        converter.load(FILE, "lstm")


@pytest.mark.parametrize("name", LAYERS)
def test_round_trips_are_exact(name, tmp_path):
    tensors = load_file(FILE)
    layer, params = converter.load(FILE, name, **OPTIONS.get(name, {}))
    back = converter.dump(layer, params, prefix=name)
    cell = "" if name.startswith("decoder") else None  # the cells' names have no number
    assert {key.removesuffix("_l0") if cell == "" else key for key in back} == {
        key for key in tensors if key.startswith(f"{name}.")
    }
    for key, array in back.items():
        np.testing.assert_array_equal(array, tensors[key.removesuffix("_l0") if cell == "" else key])
    path = tmp_path / "model.safetensors"
    converter.save(path, layer, params, prefix="a.b")
    again, arrays = converter.load(path, "a.b", **OPTIONS.get(name, {}))
    assert again == layer
    assert all(np.array_equal(arrays[key], params[key]) for key in params)


def test_nothing_is_copied_from_a_file():
    _, params = converter.load(FILE, "gru")
    for array in params.values():
        assert not array.flags.writeable and not array.flags.owndata
        base = array
        while isinstance(base, np.ndarray):
            base = base.base
        assert type(base).__name__ in ("mmap", "memoryview")


@pytest.mark.parametrize(
    ("layer", "word"),
    [
        (pr.GRU(3, 5, reset_after=False), "reset_after=False"),
        (pr.LSTM(3, 5, peephole=True), "peephole=True"),
        (pr.LSTM(3, 5, layer_norm=True), "layer_norm=True"),
        (pr.LSTM(3, 5, zoneout_h=0.1), "zoneout_h=0.1"),
        (pr.GRU(3, 5, clip=1.0), "clip=1.0"),
        (pr.RNN(3, 5, learned_state=True), "learned_state=True"),
        (pr.RNN(3, 5, nonlinearity="softsign"), "softsign"),
        (pr.RNN(3, 5, ensemble=2), "ensemble=2"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_pytorch_has_not_is_refused(layer, word):
    with pytest.raises(ValueError, match=word):
        converter.dump(layer, layer.init(seed=0))


def arrays(**changes):
    """Of a GRU with I 3 and H 5."""
    layer = pr.GRU(3, 5)
    params = converter.dump(layer, layer.init(seed=1), prefix="gru")
    return {key: a for key, a in (params | changes).items() if a is not None}


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"gru.weight_hh_l0": None}, ValueError, "gru.weight_hh_l0: missing"),
        ({"gru.bias_hh_l0": None}, ValueError, "gru.bias_hh_l0: no such array; expected shape"),
        ({"gru.weight_hh_l0": np.zeros((15, 4), "f4")}, ValueError, "expected .G.H, I"),
        ({"gru.weight_ih_l0": np.zeros(15, "f4")}, ValueError, "gru.weight_ih_l0: of shape"),
        ({"gru.weight_hh_l0": np.zeros((15, 0), "f4")}, ValueError, "expected .G.H, I"),
        ({"gru.weight_hr_l0": np.zeros((2, 5), "f4")}, ValueError, "gru"),
        ({"gru.bias_ih_l9999": np.zeros(15, "f4")}, ValueError, "10000 layers"),
        ({"gru.bias_ih_l1": np.zeros(15, "f4")}, ValueError, "gru.weight_ih_l1: no such array"),
        ({"gru.bias_ih_l0": np.full(15, np.nan, "f4")}, ValueError, r"gru.bias_ih_l0: holds nan at \(0,\)"),
        ({"gru.weight_hh_l0": np.full((15, 5), np.inf, "f4")}, ValueError, r"gru.weight_hh_l0: holds inf at \(0, 0\)"),
        ({"gru.bias_ih_l0": np.zeros(15, "f8")}, TypeError, "float32, float64; expected one"),
        ({"gru.bias_ih": np.zeros(15, "f4")}, ValueError, "a cell and a layer"),
    ],
)
def test_wrong_tensors_are_refused_by_name(changes, error, words):
    with pytest.raises(error, match=words):
        converter.find(arrays(**changes))


def test_nan_is_taken_where_that_is_said():
    found = converter.find(arrays(**{"gru.bias_ih_l0": np.full(15, np.nan, "f4")}), allow_nan=True)
    assert np.isnan(found["gru"].params["bias_ih_l0"]).all()


@pytest.mark.parametrize(
    "begin", [b"PK\x03\x04\x00\x00\x08\x08data.pkl", b"\x80\x02}q\x00.......", b"\x80\x04\x95....."]
)
def test_pickles_are_refused_with_what_helps(begin, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(begin)
    with pytest.raises(ValueError, match=r"(?s)model.pt: a pickle.*save_file\(\{k"):
        converter.find(path)


# ---- the reader of safetensors files ---------------------------------------------------------------------------


def written(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


HOSTILE = [
    (b"", b"", 2**60, "a header of"),
    (b"{}", b"", 10**9, "a header of"),
    (b"\xff\xfe", b"", None, "no JSON"),
    (b"[" * 100_000, b"", None, "nested too deep|no JSON"),
    (b"[]", b"", None, "header is a list"),
    ({"a": entry(shape=(2**40, 2**40))}, bytes(8), None, "a: shape"),
    ({"a": entry(shape=(-1,))}, bytes(8), None, "a: shape"),
    ({"a": entry(shape=(2.0,))}, bytes(8), None, "a: shape"),
    ({"a": entry(shape=(True, 2))}, bytes(8), None, "a: shape"),
    ({"a": entry(shape=(1,) * 40, offsets=(0, 4))}, bytes(4), None, "a: 40 axes"),
    ({"a": entry(shape=(0, 2**64), offsets=(0, 0))}, b"", None, "a: shape"),
    ({"a": entry(offsets=(0, 2**50))}, bytes(8), None, "a: data_offsets"),
    ({"a": entry(offsets=(8, 0))}, bytes(8), None, "a: data_offsets"),
    ({"a": entry(offsets=(-8, 0))}, bytes(8), None, "a: data_offsets"),
    ({"a": entry(offsets=(0, 4))}, bytes(4), None, "a: shape"),
    ({"a": entry(), "b": entry()}, bytes(8), None, "b begins at byte 0"),
    ({"a": entry(offsets=(8, 16))}, bytes(16), None, "a begins at byte 8"),
    ({"a": entry()}, bytes(9), None, "9 bytes of data, of which"),
    ({"a": entry(dtype="F7", offsets=(0, 2))}, bytes(2), None, "dtype 'F7'"),
    ({"a": entry(shape=(0, 2**61), offsets=(0, 0))}, b"", None, "a: shape"),
    ({"a": entry(dtype=["F32"])}, bytes(8), None, "a: dtype"),
    ({"a": {"dtype": "F32"}}, b"", None, "expected dtype, shape and data_offsets"),
    ({"a": 3}, b"", None, "expected dtype, shape and data_offsets"),
    ({"__metadata__": {"a": 3}}, b"", None, "__metadata__"),
    (b'{"a": {}, "a": {}}', b"", None, "'a' occurs twice"),
]


@pytest.mark.parametrize(("header", "data", "length", "words"), HOSTILE)
def test_hostile_files(header, data, length, words, tmp_path):
    with pytest.raises(ValueError, match=words) as caught:
        _safetensors.read(written(tmp_path / "bad.safetensors", header, data, length))
    assert "bad.safetensors" in str(caught.value)


def test_every_file_cut_short_is_refused(tmp_path):
    path, whole = tmp_path / "cut.safetensors", FILE.read_bytes()
    length = 8 + struct.unpack("<Q", whole[:8])[0]
    for size in (*range(16), length - 1, length, length + 1, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut.safetensors"):
            _safetensors.read(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="bytes of data, of which"):
        _safetensors.read(path)


def test_all_dtypes_and_tensors_that_lie_askew(tmp_path):
    rng = np.random.default_rng(3)
    stored = {
        "F64": rng.standard_normal((2, 3)),
        "F32": rng.standard_normal((2, 3)).astype("f4"),
        "F16": rng.standard_normal(5).astype("f2"),
        "I64": rng.integers(-9, 9, (2, 2)),
        "U8": np.arange(3, dtype="u1"),
        "BOOL": np.array([True, False, True]),
        "none": np.zeros((0, 3), "f4"),
        "number": np.asarray(1.5),
    }
    save_file(stored, tmp_path / "all.safetensors")
    found, _ = _safetensors.read(tmp_path / "all.safetensors")
    for name, array in stored.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)
    one = np.float32(1.5).tobytes()
    path = written(tmp_path / "askew", {"a": entry("U8", (1,), (0, 1)), "b": entry("F32", (1,), (1, 5))}, b"\x07" + one)
    assert _safetensors.read(path)[0]["b"].tolist() == [1.5]
    assert _safetensors.read(path)[0]["b"].flags.aligned


def test_bfloat16_becomes_float32_exactly(tmp_path):
    numbers = np.array([1.0, -2.5, 3.0e38, 2.0**-130, np.inf], "f4")
    halves = (numbers.view("u4") >> 16).astype("<u2")
    path = written(tmp_path / "bf16", {"a": entry("BF16", (5,), (0, 10))}, halves.tobytes())
    found = _safetensors.read(path)[0]["a"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, (halves.astype("u4") << 16).view("f4"))


def test_a_tensor_of_another_kind_hides_no_other(tmp_path):
    rnn = pr.RNN(1, 1)
    data = {name: array.ravel() for name, array in rnn.init(seed=0).items()}
    header = {name: entry("F32", shape, (4 * k, 4 * k + 4)) for k, (name, shape) in enumerate(rnn.shapes().items())}
    path = written(
        tmp_path / "f8", header | {"q": entry("F8_E4M3", (2,), (16, 18))}, b"".join(map(bytes, data.values())) + b"ab"
    )
    assert converter.load(path).layer == rnn
    other = {name: entry("F8_E5M2", shape, (k, k + 1)) for k, (name, shape) in enumerate(rnn.shapes().items())}
    with pytest.raises(TypeError, match="weight_ih_l0 and others: dtypes"):
        converter.find(written(tmp_path / "all", other, bytes(4)))


def test_a_bad_layer_hides_no_other():
    found = arrays(**{"gru.weight_hh_l0": None}) | {f"ok.{k}": a for k, a in pr.RNN(3, 5).init().items()}
    assert converter.load(found, "ok").layer == pr.RNN(3, 5)
    with pytest.raises(ValueError, match=r"gru\.weight_hh_l0: missing"):
        converter.load(found, "gru")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("gru.parametrizations.weight_hh_l0.original0", "remove_parametrizations"),
        ("gru.weight_hh_l0_g", "remove_weight_norm"),
    ],
)
def test_a_reparametrised_weight_is_told_from_a_missing_one(key, words):
    with pytest.raises(ValueError, match=words):
        converter.find(arrays(**{"gru.weight_hh_l0": None, key: np.zeros((15, 1), "f4")}))


def test_no_length_of_a_header_makes_a_pickle(tmp_path):
    rnn = pr.RNN(1, 1)
    for length in range(1, 140):  # the header's length is what the file begins with, 0x80 among others
        converter.save(tmp_path / "m.safetensors", rnn, rnn.init(), prefix="e" * length)
        assert converter.load(tmp_path / "m.safetensors").layer == rnn


# ---- live --------------------------------------------------------------------------------------------------------


@pytest.mark.torch
def test_live_modules_both_ways():
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(
        torch.nn.GRU(3, 5, 2, bidirectional=True, batch_first=True), torch.nn.RNN(3, 5, nonlinearity="relu")
    )
    found = converter.find(module)
    assert found["0"].layer == pr.GRU(3, 5, 2, bidirectional=True, batch_first=True)
    assert found["1"].layer.nonlinearity == "relu"
    weight = module[0].weight_hh_l1_reverse
    assert found["0"].params["weight_hh_l1_reverse"].__array_interface__["data"][0] == weight.data_ptr(), "a view"
    layer, params = found["0"]
    changed = {key: (2 * a).astype("f4") for key, a in params.items()}
    module[0].load_state_dict({key: torch.from_numpy(a) for key, a in converter.dump(layer, changed).items()})
    x = torch.randn(2, 7, 3)
    with torch.no_grad():
        y, h = module[0](x)
    mine, state = layer(changed, x.numpy())
    np.testing.assert_allclose(mine, y.numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(state, h.numpy(), rtol=0, atol=1e-6)
    half = {key: value.bfloat16() for key, value in module[0].state_dict().items()}
    assert converter.load(half).params["bias_ih_l0"].dtype == np.float32
