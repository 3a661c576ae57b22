"""Keras 3: its own stored results (`tests/stored/make_keras.py`), the way back, and files that lie."""

import dataclasses
import json
import os
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

import polyrnn as pr
from polyrnn.interop import keras as ours
from polyrnn.interop.keras._files import opened

h5py = pytest.importorskip("h5py")

STORED = Path(__file__).parent / "stored" / "keras"
CELLS, MASKED, NESTED, OWN = (
    STORED / name for name in ("cells.keras", "masked.weights.h5", "nested.keras", "own.keras")
)
with safe_open(STORED / "results.safetensors", "np") as file:
    RESULTS = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    ABOUT = json.loads(file.metadata()["about"])
ATOL = 1e-6  # float32, values of order 1; the largest error was 2.7e-7, of rnn_both
X = RESULTS["x"]

HARD = ("hard_sigmoid", 1 / 6, 0.5)
LAYERS = {
    "rnn": pr.RNN(3, 5, batch_first=True),
    "rnn deep": pr.RNN(3, 5, num_layers=3, bias=False, bidirectional=True, nonlinearity="relu", batch_first=True),
    "rnn linear": pr.RNN(3, 5, nonlinearity=("affine", 1.0, 0.0), batch_first=True),
    "lstm": pr.LSTM(3, 5, batch_first=True),
    "lstm deep": pr.LSTM(3, 5, num_layers=2, bidirectional=True, batch_first=True),
    "lstm activations": pr.LSTM(
        3, 5, bias=False, activations=(HARD, HARD, ("leaky_relu", 0.3), HARD, ("leaky_relu", 0.3)), batch_first=True
    ),
    "gru": pr.GRU(3, 5, batch_first=True),
    "gru deep": pr.GRU(3, 5, num_layers=2, bidirectional=True, batch_first=True),
    "gru before": pr.GRU(3, 5, reset_after=False, batch_first=True),
    "gru before deep": pr.GRU(3, 5, num_layers=2, bidirectional=True, reset_after=False, batch_first=True),
    "gru activations": pr.GRU(3, 5, activations=("softsign", "softsign", ("elu", 0.7)), batch_first=True),
}


def random(layer, rng, dtype="float32"):
    return {name: rng.standard_normal(shape).astype(dtype) * 0.5 for name, shape in layer.shapes().items()}


def sequence(layer, rng, steps=5, batch=2):
    return rng.standard_normal((batch, steps, layer.input_size)).astype("float32")


def state_of(parts):
    """Keras' list of states (N, H), [h, c, h, c] of two directions, as a layer's (D, N, H)."""
    h, c = np.stack(parts[::2]), np.stack(parts[1::2])
    return h, c


def states(name, kind, key):
    parts = [RESULTS[f"{name}/{key}/{k}"] for k in range(4) if f"{name}/{key}/{k}" in RESULTS]
    return state_of(parts) if kind is pr.LSTM else np.stack(parts)


def error(found, expected):
    found, expected = ([a] if isinstance(a, np.ndarray) else list(a) for a in (found, expected))
    assert [a.shape for a in found] == [a.shape for a in expected]
    assert all(np.abs(a).max() > 0.1 for a in expected)
    return max(float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True))


def same(found, expected):
    """Two dicts of layers are equal to the last bit."""
    assert {name: one.layer for name, one in found.items()} == {name: one.layer for name, one in expected.items()}
    for name, (_, params) in found.items():
        assert params.keys() == expected[name].params.keys()
        for key, array in params.items():
            np.testing.assert_array_equal(array, expected[name].params[key], strict=True)


# ---- Keras' own results ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ABOUT["cases"])
def test_each_kind_gives_what_keras_gave(name):
    layer, params = ours.load(CELLS, name)
    assert layer.batch_first and layer.shapes() == {key: a.shape for key, a in params.items()}
    y, last = layer(params, X, states(name, type(layer), "given"))
    assert y.dtype == np.float32
    assert error(y, RESULTS[f"{name}/y"]) < ATOL
    assert error(last, states(name, type(layer), "state")) < ATOL


@pytest.mark.parametrize("name", ABOUT["masked"])
def test_a_mask_of_keras_is_lengths_here(name):
    layer, params = ours.load(MASKED, name)
    lengths = RESULTS["lengths"]
    y, last = layer(params, X, states(name, type(layer), "given"), lengths=lengths)
    valid = np.arange(X.shape[1]) < lengths[:, None]
    assert error(y[valid], RESULTS[f"{name}/masked/y"][valid]) < ATOL
    assert error(last, states(name, type(layer), "masked/state")) < ATOL


def test_what_the_config_says_is_there():
    found = {name: one.layer for name, one in ours.find(CELLS).items()}
    assert list(found) == [*ABOUT["cases"], "bfloat16"]
    assert not found["lstm_no_bias"].bias and found["lstm"].bias
    assert not found["gru_before"].reset_after and found["gru"].reset_after and found["rnn_of_cell"].reset_after
    assert found["lstm_activations"].activations == (HARD, HARD, "softsign", HARD, "softsign")
    assert found["lstm"].activations is None and found["rnn"].nonlinearity == "tanh"
    assert found["rnn_linear"].nonlinearity == ("affine", 1.0, 0.0)


def test_bfloat16_becomes_float32():
    layer, params = ours.load(CELLS, "bfloat16")
    expected = ours.load([RESULTS[f"bfloat16/{k}"] for k in range(3)])
    same({"": (expected._replace(layer=layer, params=params))}, {"": expected})


def test_a_file_without_a_config_gives_the_same():
    found = ours.find(MASKED)
    assert sorted(found) == sorted(ABOUT["masked"])
    same(found, {name: one for name, one in ours.find(CELLS).items() if name in found})


def bare(archive, tmp_path):
    """The weights of an archive alone, a .weights.h5."""
    path = tmp_path / "bare.weights.h5"
    path.write_bytes(zipfile.ZipFile(archive).read("model.weights.h5"))
    return path


def test_layers_in_models_in_models(tmp_path):
    found = ours.find(NESTED)
    assert list(found) == [
        *("encoder/below", "encoder/above", "encoder/top", "cells", "two_ways", "slices/inside", "last"),
    ]
    assert found["cells"].layer.num_layers == 2
    same(ours.find(bare(NESTED, tmp_path)), found)

    def run(x, name):
        layer, params = ours.load(NESTED, name)
        return layer(params, x)[0]

    with h5py.File(tmp_path / "bare.weights.h5") as h5:
        dense, bias = (h5[f"layers/sequential/layers/dense/vars/{k}"][()] for k in (0, 1))
    y = run(X, ["encoder/below", "encoder/above"])  # the two as one layer
    y = run(run(run(y @ dense + bias, "encoder/top"), "cells"), "two_ways")
    slices = y.reshape(-1, 2, 7)
    y = run(run(slices, "slices/inside")[:, -1].reshape(*y.shape[:2], 5), "last")[:, -1]
    assert error(y, RESULTS["nested/y"]) < ATOL


def test_a_model_of_somebodys_own_class(tmp_path):
    found = ours.find(OWN)
    assert sorted(found) == ["reads", "writes"]
    same(ours.find(bare(OWN, tmp_path)), found)
    reads, writes = found["reads"], found["writes"]
    y, _ = writes.layer(writes.params, reads.layer(reads.params, X)[0])
    assert error(y[:, -1], RESULTS["own/y"]) < ATOL


# ---- there and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".keras", ".weights.h5"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("name", LAYERS)
def test_there_and_back(name, dtype, ending, rng, tmp_path):
    layer = LAYERS[name]
    params, L = random(layer, rng, dtype), layer.num_layers
    ours.save(tmp_path / f"a{ending}", layer, params)
    word = "bidirectional" if layer.bidirectional else {"RNN": "simple_rnn"}.get(type(layer).__name__, name.split()[0])
    names = [word, *(f"{word}_{k}" for k in range(1, L))]
    given = (layer.activations or ("sigmoid", "", "tanh")) if name[:3] != "rnn" else ("sigmoid", "", layer.nonlinearity)
    options = {"recurrent_activation": given[0], "activation": given[2]} if ending != ".keras" else {}
    if options and options["recurrent_activation"] == HARD:
        options["recurrent_activation"] = "hard_sigmoid"
    assert list(ours.find(tmp_path / f"a{ending}", **options)) == names
    found, back = ours.load(tmp_path / f"a{ending}", names, **options)
    assert found == layer
    folded = folds(layer, params)
    for key, array in back.items():
        np.testing.assert_array_equal(array, folded[key], strict=True)
    # Once folded, nothing changes any more.
    for first, second in zip(ours.dump(layer, params), ours.dump(layer, back), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    if dtype == "float64":
        x = sequence(layer, rng).astype(dtype)
        for a, b in zip(np.atleast_1d(layer(params, x)[0]), np.atleast_1d(found(back, x)[0]), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-14)


def folds(layer, params):
    """Both biases in the first, where Keras has one."""
    if isinstance(layer, pr.GRU) and layer.reset_after:
        return params
    return {
        key: a + params[key.replace("_ih", "_hh")] if "bias_ih" in key else np.zeros_like(a) if "bias" in key else a
        for key, a in params.items()
    }


def test_dump_is_what_set_weights_takes(rng):
    layer = pr.LSTM(3, 5, num_layers=2, bidirectional=True)
    below, above = ours.dump(layer, random(layer, rng))
    assert [a.shape for a in below] == [(3, 20), (5, 20), (20,)] * 2
    assert [a.shape for a in above] == [(10, 20), (5, 20), (20,)] * 2
    assert all(a.flags.c_contiguous for a in below)
    assert [a.shape for a in ours.dump(pr.GRU(3, 5), random(pr.GRU(3, 5), rng))[0]] == [(3, 15), (5, 15), (2, 15)]
    before = pr.GRU(3, 5, reset_after=False)
    assert [a.shape for a in ours.dump(before, random(before, rng))[0]] == [(3, 15), (5, 15), (15,)]


def test_a_file_is_the_same_each_time(rng, tmp_path):
    layer = pr.LSTM(3, 5)
    params = random(layer, rng)
    for ending in (".keras", ".weights.h5"):
        ours.save(tmp_path / f"a{ending}", layer, params)
        ours.save(tmp_path / f"b{ending}", layer, params)
        assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()


def test_arrays_alone(rng):
    layer = pr.LSTM(3, 5, bidirectional=True, bias=False, batch_first=True)
    params = random(layer, rng)
    (arrays,) = ours.dump(layer, params)
    for source in (arrays, [arrays], {"layer": arrays}, tuple(arrays)):
        same(ours.find(source), {"layer": ours.Converted(layer, params)})
    gru = pr.GRU(3, 5, bias=False, reset_after=False, batch_first=True)
    arrays = ours.dump(gru, random(gru, rng))
    assert ours.load(arrays).layer.reset_after and ours.load(arrays, reset_after=False).layer == gru
    one = ours.load(arrays, activation="relu", recurrent_activation=("elu", 0.3)).layer
    assert one.activations == (("elu", 0.3), ("elu", 0.3), "relu")


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (pr.LSTM(3, 5, peephole=True), "peephole=True"),
        (pr.LSTM(3, 5, coupled=True), "coupled=True"),
        (pr.LSTM(3, 5, proj_size=2), "proj_size=2"),
        (pr.LSTM(3, 5, clip=1.0), "clip=1.0"),
        (pr.LSTM(3, 5, cell_clip=1.0), "cell_clip=1.0"),
        (pr.GRU(3, 5, layer_norm=True), "layer_norm=True"),
        (pr.RNN(3, 5, learned_state=True), "learned_state=True"),
        (pr.RNN(3, 5, zoneout_h=0.1), "zoneout_h=0.1"),
        (pr.RNN(3, 5, ensemble=2), "ensemble=2"),
        (pr.RNN(3, 5, nonlinearity=("affine", 2.0, 0.0)), r"affine \(2.0, 0.0\)"),
        (pr.RNN(3, 5, nonlinearity="hard_sigmoid"), r"hard_sigmoid \(0.2, 0.5\)"),
        (pr.LSTM(3, 5, activations=("sigmoid", "relu", "tanh", "sigmoid", "tanh")), "one for the gates"),
        (pr.LSTM(3, 5, activations=("sigmoid", "sigmoid", "tanh", "sigmoid", "relu")), "one for the gates"),
        (pr.GRU(3, 5, activations=("sigmoid", "relu", "tanh")), "one for the gates"),
    ],
)
def test_what_keras_has_not_is_refused(layer, text, rng, tmp_path):
    for write in (ours.dump, lambda *given: ours.save(tmp_path / "a.keras", *given)):
        with pytest.raises(ValueError, match=text):
            write(layer, random(layer, rng))
    assert not list(tmp_path.iterdir())


def test_other_arguments_that_do_not_fit(rng, tmp_path):
    layer = pr.LSTM(3, 5)
    params = random(layer, rng)
    with pytest.raises(TypeError, match="expected an RNN, LSTM or GRU"):
        ours.dump(pr.Linear(3, 5), {})
    with pytest.raises(ValueError, match="expected those of"):
        ours.dump(layer, {**params, "bias_ih_l0": params["bias_ih_l0"][1:]})
    with pytest.raises(ValueError, match=r"\.keras or \.weights\.h5"):
        ours.save(tmp_path / "a.h5", layer, params)
    with pytest.raises(TypeError, match="floating point"):
        ours.save(tmp_path / "a.keras", layer, {name: a.astype("int32") for name, a in params.items()})
    with pytest.raises(TypeError, match="source is int"):
        ours.find(3)
    with pytest.raises(TypeError, match="expected a str"):
        ours.find(PathOf(b"a"))
    with pytest.raises(FileNotFoundError):
        ours.find(tmp_path / "missing.keras")
    with pytest.raises(OSError, match="no regular file"):
        ours.find(tmp_path)
    with pytest.raises(ValueError, match=r"cells.keras: no recurrent layer of the name 'x'; there is 'lstm'"):
        ours.load(CELLS, "x")
    with pytest.raises(ValueError, match="name one"):
        ours.load(CELLS)
    with pytest.raises(ValueError, match="no names"):
        ours.load(CELLS, [])
    with pytest.raises(ValueError, match="does not go above"):
        ours.load(CELLS, ["lstm", "lstm"])
    with pytest.raises(ValueError, match="does not go above"):
        ours.load(NESTED, ["encoder/below", "cells"])
    assert ours.find([]) == {} == ours.find({})


@dataclasses.dataclass
class PathOf:
    inside: object

    def __fspath__(self):
        return self.inside


os.PathLike.register(PathOf)


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        ([(3, 20), (5, 20), (15,)], r"bias of shape \(15,\); expected \(20,\)"),
        ([(3, 15), (5, 15), (3, 15)], r"or \(2, 15\)"),
        ([(3, 20), (5, 15)], "the shapes"),
        ([(3, 10), (5, 10)], "expected those of an rnn, lstm or gru"),
        ([(0, 20), (5, 20)], "the shapes"),
        ([(3, 0), (0, 0)], "the shapes"),
        ([(3, 2, 20), (5, 20)], "the shapes"),
        ([(20,), (5, 20)], "the shapes"),
        ([(3, 20)], "1 arrays"),
        ([(3, 20), (5, 20), (20,), (3, 20), (5, 20)], "5 arrays"),
        ([(3, 20), (5, 20), (3, 20), (4, 16)], "the shapes|directions differ"),
        ([(3, 20), (5, 20), (3, 16), (4, 16)], "directions differ"),
    ],
)
def test_arrays_that_do_not_fit(shapes, text, rng):
    with pytest.raises(ValueError, match=f"source: a: .*({text})"):
        ours.find({"a": [rng.standard_normal(shape) for shape in shapes]})


def test_arrays_of_other_kinds(rng):
    arrays = ours.dump(pr.GRU(3, 5), random(pr.GRU(3, 5), rng))[0]
    with pytest.raises(ValueError, match="kernel: dtype int32"):
        ours.find([arrays[0].astype("int32"), *arrays[1:]])
    with pytest.raises(ValueError, match=r"dtypes \['float64', 'float32', 'float32'\]"):
        ours.find([arrays[0].astype("float64"), *arrays[1:]])
    with pytest.raises(TypeError, match="expected a list of arrays"):
        ours.find({"a": "text"})
    with pytest.raises(TypeError, match="expected a list of arrays"):
        ours.find([1, 2, 3])
    for value in (np.nan, np.inf):
        spoilt = [arrays[0], arrays[1].copy(), arrays[2]]
        spoilt[1][2, 3] = value
        with pytest.raises(ValueError, match="recurrent_kernel: not all numbers are finite"):
            ours.find(spoilt)
        assert not np.isfinite(ours.load(spoilt, allow_nan=True).params["weight_hh_l0"]).all()


# ---- configs that polyrnn has not, and that lie ----------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path, rng):
    """A function that writes a .keras file with what it is given changed."""

    def write(layer, change=lambda config: config, *, weights=None, drop=(), compression=zipfile.ZIP_STORED):
        path = tmp_path / "changed.keras"
        ours.save(path, layer, random(layer, rng))
        with zipfile.ZipFile(path) as old:
            members = {name: old.read(name) for name in old.namelist()}
        config = json.loads(members["config.json"])
        changed = change(config)
        members["config.json"] = changed if isinstance(changed, bytes) else json.dumps(changed or config).encode()
        members["model.weights.h5"] = weights or members["model.weights.h5"]
        with zipfile.ZipFile(path, "w", compression) as new:
            for name, content in members.items():
                if name not in drop:
                    new.writestr(name, content)
        return path

    return write


def set_in_layer(**options):
    """A change of what the config says of its first layer; of "layer" and so on inside it, if these are named."""

    def change(config):
        inside = config["config"]["layers"][1]["config"]
        for name, value in options.items():
            if isinstance(value, dict) and isinstance(inside.get(name), dict):
                inside[name]["config"] |= value
            else:
                inside[name] = value
        return config

    return change


BOTH = pr.GRU(3, 5, bidirectional=True)


@pytest.mark.parametrize(
    ("layer", "options", "text"),
    [
        (BOTH, {"merge_mode": "sum"}, "merge_mode='sum'"),
        (BOTH, {"merge_mode": None}, "merge_mode=None"),
        (BOTH, {"layer": {"go_backwards": True}}, "go_backwards=True"),
        (BOTH, {"backward_layer": {"go_backwards": False}}, "go_backwards=False"),
        (BOTH, {"backward_layer": {"activation": "relu"}}, "directions differ"),
        (BOTH, {"layer": 3}, "where a layer is described"),
        (pr.LSTM(3, 5), {"go_backwards": True}, "go_backwards=True; .* expected False"),
        (pr.LSTM(3, 5), {"activation": "gelu"}, "activation='gelu', which polyrnn does not have"),
        (pr.LSTM(3, 5), {"activation": {"module": "builtins", "class_name": "f"}}, "activation=.*'builtins'"),
        (pr.LSTM(3, 5), {"activation": ["tanh"]}, "activation=.*which polyrnn does not have"),
        (pr.LSTM(3, 5), {"recurrent_activation": "silu"}, "recurrent_activation='silu'"),
        (pr.LSTM(3, 5), {"use_bias": False}, "use_bias=False"),
        (pr.LSTM(3, 5), {"units": 6}, "units=6"),
        (pr.GRU(3, 5), {"reset_after": False}, r"bias of shape \(2, 15\)"),
        (pr.GRU(3, 5), {"reset_after": "yes"}, "reset_after='yes'"),
        (pr.GRU(3, 5, reset_after=False), {"reset_after": True}, r"bias of shape \(15,\)"),
    ],
)
def test_configs_that_are_refused(layer, options, text, archive):
    path = archive(layer, set_in_layer(**options))
    with pytest.raises(ValueError, match=rf"changed.keras: (gru|lstm|bidirectional): .*{text}"):
        ours.find(path)


def test_a_refused_layer_does_not_hide_the_others(archive):
    path = archive(pr.LSTM(5, 5, num_layers=2), set_in_layer(go_backwards=True))
    assert ours.load(path, "lstm_1").layer == pr.LSTM(5, 5, batch_first=True)
    with pytest.raises(ValueError, match="lstm: go_backwards"):
        ours.find(path)


def renamed(class_name):
    def change(config):
        config["config"]["layers"][1]["class_name"] = class_name
        return config

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda config: b"{", "config.json is not JSON"),
        (lambda config: b"\xff\xfe", "config.json is not JSON"),
        (lambda config: b"[" * 10_000_000, "config.json is not JSON"),
        (lambda config: b"[]", "config.json: a list"),
        (renamed("GRU"), "lstm: no arrays of it"),
        (set_in_layer(name="other"), "holds the layer 'lstm'; the config has 'other'"),
    ],
)
def test_configs_that_lie(change, text, archive):
    with pytest.raises(ValueError, match=f"changed.keras.*{text}"):
        ours.find(archive(pr.LSTM(3, 5), change))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"class_name": 3, "config": 4},
        {"class_name": "Sequential", "config": {"layers": None}},
        {"class_name": "Sequential", "config": {"layers": [None, 3, "x", {}, {"class_name": []}, {"config": []}]}},
        {"class_name": "Sequential", "config": {"layers": [{"class_name": "LSTM", "config": {"name": 3}}]}},
    ],
)
def test_a_config_that_tells_nothing_is_as_none(config, archive):
    assert list(ours.find(archive(pr.LSTM(3, 5), lambda old: json.dumps(config).encode()))) == ["lstm"]


def test_models_within_models_without_end(archive):
    config = {"class_name": "LSTM", "config": {"name": "x"}}
    for _ in range(200):
        config = {"class_name": "Sequential", "config": {"name": "x", "layers": [config]}}
    with pytest.raises(ValueError, match="more than 64 models"):
        ours.find(archive(pr.LSTM(3, 5), lambda old: config))


# ---- files that are damaged, and that lie ----------------------------------------------------------------------------


def test_compressed_archives_are_read(archive, rng):
    ours.find(archive(pr.LSTM(3, 5), compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError, match="refused beyond 0 times"):
        ours.find(archive(pr.LSTM(3, 5), compression=zipfile.ZIP_BZIP2))


@pytest.mark.parametrize("name", ["config.json", "model.weights.h5"])
def test_archives_without_a_part(name, archive):
    with pytest.raises(ValueError, match=f"an archive without {name}"):
        ours.find(archive(pr.LSTM(3, 5), drop=[name]))


def test_a_bomb_is_refused_before_it_is_unpacked(archive):
    path = archive(pr.LSTM(3, 5), weights=bytes(1 << 24), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"model.weights.h5 claims 16777216 bytes, of which .* refused"):
        ours.find(path)


def test_a_stored_member_that_claims_more_than_there_is(archive):
    path = archive(pr.LSTM(3, 5))
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")  # the last of the directory: compressed and uncompressed sizes at 20 and 24
    content[entry + 20 : entry + 28] = (0x7FFFFFFF).to_bytes(4, "little") * 2
    path.write_bytes(content)
    with pytest.raises(ValueError, match="claims 2147483647 bytes"):
        ours.find(path)


def test_a_compressed_member_that_unpacks_to_more_than_it_claims(archive):
    path = archive(pr.LSTM(3, 5), weights=bytes(1 << 24), compression=zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = (1000).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"changed.keras: damaged"):
        ours.find(path)


@pytest.mark.parametrize("part", [0, 1, 10, 100, 0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("ending", [".keras", ".weights.h5"])
def test_truncated_files(part, ending, tmp_path, rng):
    path = tmp_path / f"a{ending}"
    ours.save(path, pr.LSTM(3, 5), random(pr.LSTM(3, 5), rng))
    content = path.read_bytes()
    path.write_bytes(content[: part if isinstance(part, int) else int(part * len(content))])
    with pytest.raises(ValueError, match=f"a{ending}: "):
        ours.find(path)


def everything(path):
    """What h5py finds in a file: the arrays, and what the groups of variables are called."""
    arrays, names = {}, {}
    with h5py.File(path) as h5:

        def visit(name, thing):
            if isinstance(thing, h5py.Dataset):
                arrays[name] = thing[()]
            elif name.rpartition("/")[2] == "vars" and "name" in thing.attrs:
                names[name.rpartition("/")[0]] = thing.attrs["name"]

        h5.visititems(visit)
    return arrays, names


def test_the_reader_finds_what_h5py_finds(tmp_path, rng):
    many = tmp_path / "many.weights.h5"
    with h5py.File(many, "w") as h5:  # more than fit into one node of a tree, and texts of all kinds
        for k in range(700):
            h5[f"layers/lstm_{k}/cell/vars/0"] = rng.standard_normal((k % 3, 2)).astype(("<f4", ">f8", "<f2")[k % 3])
        for k, name in enumerate(["é中", "x" * 400, np.bytes_(b"fixed"), "", "a"]):
            h5.create_group(f"layers/lstm_{k}/vars").attrs["name"] = name
            h5[f"layers/lstm_{k}/vars"].attrs["more"] = np.arange(1000.0)
    files = [many, MASKED]
    for archive in (CELLS, NESTED, OWN):
        files.append(tmp_path / f"{archive.stem}.weights.h5")
        files[-1].write_bytes(zipfile.ZipFile(archive).read("model.weights.h5"))
    for path in files:
        arrays, names = everything(path)
        with opened(path) as (found, _):
            assert found.arrays.keys() == arrays.keys() and len(arrays) > 5
            for key, array in arrays.items():
                if array.dtype != "V2":
                    np.testing.assert_array_equal(found.arrays[key].read(), array)
            texts = {key: name.decode() if isinstance(name, bytes) else name for key, name in names.items() if name}
            assert {key: found.names[key] for key in texts} == texts
            assert found.names.keys() == texts.keys()


def test_where_hdf5s_own_library_loops_for_ever(tmp_path, rng):
    """Version 2.0.0: a cycle in the list of what is free among names; a text that takes no room."""
    layer = pr.GRU(2, 3, batch_first=True)
    path = tmp_path / "a.weights.h5"
    ours.save(path, layer, random(layer, rng))
    content = bytearray(path.read_bytes())
    heap = content.index(b"HEAP")
    (free,) = struct.unpack_from("<Q", content, heap + 16)
    (names,) = struct.unpack_from("<Q", content, heap + 24)
    struct.pack_into("<Q", content, names + free, free)
    path.write_bytes(content)
    assert ours.load(path).layer == layer
    texts = content.index(b"GCOL") + 16
    content[texts : texts + 16] = bytes(16)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a.weights.h5: damaged: the text name of vars"):
        ours.find(path)


def test_arrays_that_claim_the_same_place(hdf5):
    def change(h5):
        for k in range(60):
            h5[f"layers/a{k}/vars/0"] = np.full(100, k, "f4")

    path = hdf5(change)
    content = path.read_bytes()
    first = struct.pack("<QQ", *place_of(path, "layers/a0/vars/0"))
    for k in range(1, 60):  # the second half of an entry is its size: all of the file but the start
        content = content.replace(struct.pack("<QQ", *place_of(path, f"layers/a{k}/vars/0")), first)
    path.write_bytes(content.replace(first, struct.pack("<QQ", 2048, len(content) - 2048)))
    with pytest.raises(ValueError, match=r"its arrays claim more than the \d+ bytes of the file"):
        ours.find(path)


def place_of(path, name):
    with h5py.File(path) as h5:
        return h5[name].id.get_offset(), h5[name].id.get_storage_size()


def test_newer_forms_of_hdf5_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.weights.h5", "w", libver="latest") as h5:
        h5["layers/lstm/cell/vars/0"] = np.zeros((3, 20))
    with pytest.raises(ValueError, match=r"a.weights.h5: HDF5 in a form that h5py does not write"):
        ours.find(tmp_path / "a.weights.h5")


@pytest.mark.parametrize("ending", [".keras", ".weights.h5"])
def test_bytes_that_fell_over(ending, tmp_path, rng):
    """Whatever is damaged, the answer is a layer or one of the documented errors."""
    path = tmp_path / f"a{ending}"
    ours.save(path, pr.GRU(2, 3), random(pr.GRU(2, 3), rng))
    content, refused = path.read_bytes(), []
    for _ in range(300):
        spoilt = bytearray(content)
        for place in rng.integers(0, len(content), 8):
            spoilt[place] = rng.integers(256)
        path.write_bytes(spoilt)
        try:
            found = ours.find(path)
        except (ValueError, OSError) as error:
            refused.append(str(error))
        else:
            assert all(layer.shapes().keys() == params.keys() for layer, params in found.values())
    assert all(path.name in words for words in refused)
    # A .keras file has sums over its content; in the other, some of the bytes are numbers, which may be any.
    assert len(refused) == 300 if ending == ".keras" else 0 < len(refused) < 300


@pytest.fixture
def hdf5(tmp_path, rng):
    """A function that writes a .weights.h5 and has somebody change it."""

    def write(change):
        path = tmp_path / "a.weights.h5"
        ours.save(path, pr.LSTM(3, 5), random(pr.LSTM(3, 5), rng))
        with h5py.File(path, "r+") as h5:
            change(h5)
        return path

    return write


PLACE = "layers/lstm/cell/vars"


def replaced(**options):
    """The kernel is replaced by another array."""

    def change(h5):
        del h5[f"{PLACE}/0"]
        h5.create_dataset(f"{PLACE}/0", **options)

    return change


def linked(link, place=f"{PLACE}/0"):
    def change(h5):
        if place in h5:
            del h5[place]
        h5[place] = link(h5) if callable(link) else link

    return change


def virtual(h5):
    layout = h5py.VirtualLayout((3, 20), "f4")
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", (3, 20))
    del h5[f"{PLACE}/0"]
    h5.create_virtual_dataset(f"{PLACE}/0", layout)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (replaced(shape=(1 << 40, 20), dtype="f4"), "claims 87960930222080 bytes of 0 that are stored"),
        (replaced(shape=(1 << 40, 20), dtype="f4", chunks=(10, 20)), "in chunks"),
        (replaced(shape=(1 << 40, 20), dtype="f4", chunks=(10, 20), compression="gzip"), "in chunks"),
        (replaced(shape=(3, 20), dtype="f4"), "claims 240 bytes of 0"),
        (replaced(data=np.zeros((3, 20), "i4")), "dtype of class 0"),
        (replaced(data=np.zeros((3, 20), "c8")), "dtype of class 6"),
        (replaced(data=np.zeros((3, 20), "V2")), "opaque"),
        (replaced(data=[["text"]]), "dtype of class 9"),
        (linked(h5py.Empty("f4"), f"{PLACE}/1"), "empty dataspace"),
        (linked(np.float32(3), f"{PLACE}/1"), "lstm: the shapes"),
        (lambda h5: h5.pop(f"{PLACE}/0"), r"the arrays \[1, 2\]"),
        (replaced(shape=(3, 20), dtype="f4", external=[("/etc/hostname", 0, 240)]), "in another file"),
        (virtual, "in chunks, compressed or in another file"),
        (linked(h5py.SoftLink("/layers/lstm/cell/vars/1")), f"{PLACE}/0 is a link"),
        (linked(h5py.SoftLink(f"/{PLACE}/0")), f"{PLACE}/0 is a link"),
        (linked(h5py.ExternalLink("/etc/hostname", "x")), f"{PLACE} is a group with links to elsewhere"),
        (linked(lambda h5: h5["layers"], "layers/lstm/again"), "is there twice"),
        (linked(lambda h5: h5[f"{PLACE}/1"]), "is there twice"),
        (lambda h5: h5.create_group("a/" * 100), "too deep"),
        (lambda h5: h5.attrs.create("layer_names", [b"lstm"]), "the older HDF5 format"),
        (lambda h5: h5.create_group("model_weights"), "the older HDF5 format"),
        (lambda h5: [h5.pop(key) for key in list(h5)], "not the weights of a Keras 3 model"),
        (lambda h5: h5.pop(f"{PLACE}/2") and h5.pop(f"{PLACE}/1"), "lstm: 1 arrays"),
        (lambda h5: h5.pop(f"{PLACE}/1"), r"the arrays \[0, 2\]"),
        (replaced(data=np.full((3, 20), np.nan, "f4")), "lstm: kernel: not all numbers are finite"),
    ],
)
def test_hdf5_that_lies(change, text, hdf5):
    with pytest.raises(ValueError, match=rf"a.weights.h5: .*({text})"):
        ours.find(hdf5(change))


def test_hdf5_of_one_direction_of_two(tmp_path, rng):
    layer = pr.LSTM(3, 5, bidirectional=True)
    ours.save(tmp_path / "a.weights.h5", layer, random(layer, rng))
    with h5py.File(tmp_path / "a.weights.h5", "r+") as h5:
        del h5["layers/bidirectional/backward_layer"]
    with pytest.raises(ValueError, match=r"has the cells \['forward_layer'\]"):
        ours.find(tmp_path / "a.weights.h5")


def test_names_that_are_no_text_are_left_alone(hdf5):
    def change(h5):
        h5["layers/lstm/vars"].attrs["name"] = np.zeros(3)

    assert list(ours.find(hdf5(change))) == ["lstm"]


def test_big_endian_numbers(hdf5, rng):
    path = hdf5(replaced(data=np.arange(60, dtype=">f4").reshape(3, 20)))
    weight = ours.load(path).params["weight_ih_l0"]
    assert weight.dtype.isnative and weight[1, 0] == 1


def test_other_formats_are_refused(tmp_path):
    for content in (b"text", b"\x80\x04\x95", b"PK", (STORED / "results.safetensors").read_bytes()):
        (tmp_path / "a.keras").write_bytes(content)
        with pytest.raises(ValueError, match=r"a.keras: neither a .keras archive nor HDF5"):
            ours.find(tmp_path / "a.keras")


def test_without_h5py_the_command_is_named(monkeypatch, tmp_path, rng):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'polyrnn\[keras\]'"):
        ours.save(tmp_path / "a.keras", pr.GRU(2, 3), random(pr.GRU(2, 3), rng))
    assert "lstm" in ours.find(CELLS)  # reading needs none


# ---- with Keras ------------------------------------------------------------------------------------------------------

# Keras' own, in get_weights with its NumPy backend.
LIVE = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")


@pytest.fixture(scope="module")
def keras():
    os.environ.setdefault("KERAS_BACKEND", "numpy")
    return pytest.importorskip("keras", minversion="3.0")


@LIVE
@pytest.mark.parametrize("path", [CELLS, NESTED], ids=lambda path: path.stem)
def test_a_live_model_gives_what_its_file_gives(path, keras):
    model = keras.saving.load_model(path, safe_mode=False)
    live, stored = ours.find(model), ours.find(path)
    live.pop("bfloat16", None), stored.pop("bfloat16", None)  # Keras' NumPy backend has none
    same(live, stored)


@LIVE
def test_a_live_layer(keras, rng):
    layer = keras.layers.GRU(5, activation="softsign", name="mine")
    with pytest.raises(ValueError, match=r"mine|gru_cell: no weights yet"):
        ours.find(layer)
    layer.build((None, None, 3))
    assert list(ours.find(layer)) == ["mine"]
    assert ours.load(layer).layer.activations == ("sigmoid", "sigmoid", "softsign")


@LIVE
@pytest.mark.parametrize("name", LAYERS)
def test_keras_computes_what_was_saved(name, keras, rng, tmp_path):
    layer = LAYERS[name]
    params, x = random(layer, rng), sequence(layer, rng)
    expected = layer(params, x)[0]
    ours.save(tmp_path / "a.keras", layer, params)
    ours.save(tmp_path / "a.weights.h5", layer, params)
    model = keras.saving.load_model(tmp_path / "a.keras")
    assert error(np.asarray(model(x)), expected) < ATOL
    for how in (
        lambda: model.load_weights(tmp_path / "a.weights.h5"),
        lambda: [one.set_weights(a) for one, a in zip(model.layers, ours.dump(layer, params), strict=True)],
    ):
        for weight in model.weights:
            weight.assign(weight * 0)
        how()
        assert error(np.asarray(model(x)), expected) < ATOL


@LIVE
@pytest.mark.parametrize("name", ["lstm", "gru deep"])
def test_keras_loads_half_precision(name, keras, rng, tmp_path):
    layer = LAYERS[name]
    params = random(layer, rng, "float16")
    ours.save(tmp_path / "a.keras", layer, params)
    model = keras.saving.load_model(tmp_path / "a.keras")
    expected = [array for arrays in ours.dump(layer, params) for array in arrays]
    for found, array in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(found, array, strict=True)


@LIVE
def test_other_models(keras, tmp_path):
    """Of somebody's own class, with a layer in two models, with a convolution; live and in both kinds of file."""
    kl = keras.layers

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.blocks = [kl.GRU(3, return_sequences=True, name=f"block{k}") for k in range(2)]
            self.last = kl.RNN(kl.SimpleRNNCell(2), name="end")

        def call(self, x):
            return self.last(self.blocks[1](self.blocks[0](x)))

    own = Own()
    own(np.ones((2, 4, 3), "float32"))
    twice = kl.LSTM(3, return_sequences=True, name="twice")
    x = kl.Input((4, 3))
    shared = keras.Model(
        x, keras.Sequential([kl.Input((4, 3)), twice], name="b")(keras.Model(x, twice(x), name="a")(x))
    )
    images = [kl.Input((4, 6, 6, 1)), kl.ConvLSTM2D(2, 3, return_sequences=True), kl.Reshape((4, 32))]
    images = keras.Sequential([*images, kl.SimpleRNN(3, name="end")])
    for model, names in ((own, ["block0", "block1", "end"]), (shared, ["a/twice"]), (images, ["end"])):
        live = ours.find(model)
        assert sorted(live) == names
        model.save_weights(tmp_path / "a.weights.h5")
        same(ours.find(tmp_path / "a.weights.h5"), live)
        if model is not own:  # its class is not registered
            model.save(tmp_path / "a.keras")
            same(ours.find(tmp_path / "a.keras"), live)
