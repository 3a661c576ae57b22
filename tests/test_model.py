"""Models in one piece: descriptions, files, predictions in batches; archives; arrays of other libraries."""

import io
import json
import zipfile

import numpy as np
import pytest
import subjects

import polyrnn as pr
from polyrnn import checkpoint
from polyrnn.interop import dlpack, npz
from polyrnn.model import build, describe

GATES = ("sigmoid", "sigmoid", "tanh", "sigmoid", ("elu", 0.5))
MODULES = [
    pr.RNN(3, 5, nonlinearity=("leaky_relu", 0.02), clip=2.0),
    pr.LSTM(
        3,
        5,
        2,
        bidirectional=True,
        proj_size=2,
        dropout=0.1,
        activations=("sigmoid", "sigmoid", "tanh", "sigmoid", ("elu", 0.5)),
    ),
    pr.LSTM(3, 7, peephole=True, coupled=True, layer_norm=True, zoneout_c=0.25),
    pr.GRU(3, 5, reset_after=False, batch_first=True, initializer="keras", learned_state=True),
    pr.GRU(3, 5, ensemble=2, remat="auto"),
    pr.Sequential(
        embedding=pr.Embedding(11, 3), gru=pr.GRU(3, 5), dropout=pr.Dropout(0.5), head=pr.Linear(5, 2, bias=False)
    ),
    pr.Sequential(pr.Sequential(pr.LSTM(3, 5)), pr.Pool("mean"), pr.Linear(5, 2)),
]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: type(m).__name__)
def test_a_description_survives_json_and_builds_the_same(module):
    assert build(json.loads(json.dumps(describe(module)))) == module


def test_an_initializer_that_is_no_name_is_left_out():
    assert "initializer" not in describe(pr.LSTM(3, 5, initializer=pr.initializers.Chrono(10)))


@pytest.mark.parametrize(
    ("description", "words"),
    [
        (None, "expected a dict with a type"),
        ({"type": 3}, "expected a dict with a type"),
        ({"type": "Popen", "args": ["ls"]}, "type 'Popen'; expected one of"),
        ({"type": "LSTM", "input_size": 3}, "LSTM: .*hidden_size"),
        ({"type": "LSTM", "input_size": 3, "hidden_size": -5}, "hidden_size=-5"),
        ({"type": "GRU", "input_size": 3, "hidden_size": 5, "command": 1}, "no option 'command'"),
        ({"type": "Sequential", "members": 3}, "expected members"),
        ({"type": "Sequential", "members": [["a"]]}, "a name and a description"),
        ({"type": "Sequential", "members": [["a", {"type": "Dropout"}], ["a", {"type": "Dropout"}]]}, "two members"),
        ({"type": "Sequential", "members": [["a", {"type": "RNN"}]]}, r"model\.a: RNN"),
    ],
)
def test_what_describes_no_module_is_refused(description, words):
    with pytest.raises((ValueError, TypeError), match=words):
        build(description)


def test_no_end_of_sequentials():
    description: dict = {"type": "Dropout"}
    for _ in range(200):
        description = {"type": "Sequential", "members": [["a", description]]}
    with pytest.raises(ValueError, match="no more than 32"):
        build(description)


@pytest.mark.parametrize("module", MODULES, ids=lambda m: type(m).__name__)
def test_files_hold_all_of_it(module, tmp_path):
    model = pr.Model(module, module.init(seed=3), {"vocabulary": "abc"})
    model.save(tmp_path / "m.safetensors")
    npz.save(tmp_path / "m.npz", module, model.params)
    for again in (pr.Model.load(tmp_path / "m.safetensors"), npz.read(tmp_path / "m.npz")):
        assert again.module == module and again.params.keys() == model.params.keys()
        for name, array in model.params.items():
            np.testing.assert_array_equal(again.params[name], array, strict=True)
            assert not again.params[name].flags.writeable
    assert pr.Model.load(tmp_path / "m.safetensors").config == {"vocabulary": "abc"}
    with np.load(tmp_path / "m.npz", allow_pickle=False) as archive:
        assert set(archive) == {*model.params, npz.DESCRIPTION}


def test_files_that_do_not_fit_are_refused(tmp_path):
    path, lstm = tmp_path / "m.safetensors", pr.LSTM(3, 5)
    checkpoint.save(path, lstm.init(seed=0), {})
    with pytest.raises(ValueError, match=r"m.safetensors: its configuration has no entry 'model'"):
        pr.Model.load(path)
    checkpoint.save(path, lstm.init(seed=0), {"model": describe(pr.LSTM(3, 7))})
    with pytest.raises(ValueError, match=r"m.safetensors: weight_ih_l0: shape \(20, 3\); expected shape \(28, 3\)"):
        pr.Model.load(path)
    checkpoint.save(path, lstm.init(seed=0), {"model": "LSTM"})
    with pytest.raises(ValueError, match=r"m.safetensors: model: 'LSTM'"):
        pr.Model.load(path)
    with pytest.raises(ValueError, match="the entry 'model'"):
        pr.Model(lstm, lstm.init(seed=0), {"model": 1}).save(path)


subject = subjects.without_kernels


def test_a_model_runs_on_every_backend(subject, tmp_path):
    """Written from its arrays, read back, run in batches; what comes out is on the host."""
    module = pr.Sequential(lstm=pr.LSTM(3, 5), head=pr.Linear(5, 2))
    params = module.init(seed=1, dtype="float64")
    pr.Model(module, {name: subject.array(a, "float64") for name, a in params.items()}).save(tmp_path / "m")
    again = pr.Model.load(tmp_path / "m", backend="numpy")
    x = np.random.default_rng(2).standard_normal((7, 4, 3))
    there = pr.Model(module, {name: subject.array(a, "float64") for name, a in again.params.items()})
    y, state = there.predict(x, batch_size=3)
    assert type(y) is np.ndarray and type(state[0][0]) is np.ndarray
    np.testing.assert_allclose(y, module(params, x)[0], rtol=0, atol=1e-13)


def test_memory_comes_to_the_backend_of_its_device(subject):
    x = subject.array(np.arange(6.0).reshape(2, 3), "float64")
    if not hasattr(x, "__dlpack__"):
        pytest.skip("no DLPack")
    taken = dlpack.from_dlpack({"x": x})["x"]
    assert pr.backend_of(taken).name == ("cupy" if subject.name == "cupy" else "numpy")
    np.testing.assert_array_equal(pr.backend_of(taken).to_numpy(taken), np.arange(6.0).reshape(2, 3))


# ---- predictions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [None, "lengths", "mask"])
def test_batches_give_what_all_at_once_gives(batch_first, lengths):
    rng = np.random.default_rng(5)
    layer = pr.LSTM(3, 5, 2, bidirectional=True, batch_first=batch_first)
    params = layer.init(seed=1, dtype="float64")
    x = rng.standard_normal((11, 7, 3) if batch_first else (7, 11, 3))
    state = tuple(rng.standard_normal((4, 11, 5)) for _ in "hc")
    own = {None: None, "lengths": rng.integers(0, 8, 11), "mask": rng.random(x.shape[:2]) < 0.7}[lengths]
    y, after = layer(params, x, state, own)
    seen = []
    found = pr.Model(layer, params).predict(x, state, own, batch_size=4, progress=lambda *a: seen.append(a))
    np.testing.assert_allclose(found.y, y, rtol=0, atol=1e-14)
    for a, b in zip(found.state, after, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-14)
    assert seen == [(4, 11), (8, 11), (11, 11)]


def test_batches_of_a_classifier_and_of_ids():
    rng = np.random.default_rng(5)
    module = pr.Sequential(pr.Embedding(13, 3), pr.GRU(3, 5), pr.Pool("last"), pr.Linear(5, 2))
    model = pr.Model(module, module.init(seed=1, dtype="float64"))
    ids, lengths = rng.integers(0, 13, (7, 11)), rng.integers(1, 8, 11)
    y, state = module(model.params, ids, lengths=lengths)
    found = model.predict(ids, lengths=lengths, batch_size=3)
    np.testing.assert_allclose(found.y, y, rtol=0, atol=1e-14)
    assert found.state[0] is None and found.state[1].shape == state[1].shape
    np.testing.assert_allclose(found.state[1], state[1], rtol=0, atol=1e-14)


def test_one_sequence_an_ensemble_and_nothing():
    layer = pr.GRU(3, 5)
    model = pr.Model(layer, layer.init(seed=1))
    x = np.random.default_rng(1).standard_normal((7, 2, 3)).astype("f4")
    np.testing.assert_allclose(model.predict(x[:, 0], batch_size=1).y, layer(model.params, x)[0][:, 0], atol=1e-6)
    members = pr.GRU(3, 5, ensemble=2)
    assert pr.Model(members, members.init()).predict(x, batch_size=1).y.shape == (2, 7, 2, 5)
    assert model.predict(x[:, :0], batch_size=2).y.shape == (7, 0, 5)
    with pytest.raises(ValueError, match="batch_size=0"):
        model.predict(x, batch_size=0)


@pytest.mark.parametrize(
    ("lengths", "state", "words"),
    [
        (np.ones(9, int), None, "lengths has shape"),
        (np.ones((7, 9), bool), None, "lengths has shape"),
        (np.asarray(3), None, "lengths has shape"),
        (None, np.zeros((1, 9, 5), "f4"), r"state has a part of shape \(1, 9, 5\)"),
        (None, np.zeros(5, "f4"), r"state has a part of shape \(5,\)"),
        (None, 3.0, "state has a float"),
    ],
)
def test_what_belongs_to_another_batch_is_refused(lengths, state, words):
    gru = pr.GRU(3, 5)
    with pytest.raises(ValueError, match=words):
        pr.Model(gru, gru.init()).predict(np.zeros((7, 5, 3), "f4"), state, lengths, batch_size=2)


def test_a_description_that_is_nested_without_end_is_refused(tmp_path):
    deep: list = []
    for _ in range(900):
        deep = [deep]
    described = {"type": "LSTM", "input_size": 3, "hidden_size": 5, "activations": deep}
    checkpoint.save(tmp_path / "m", {"a": np.zeros(1, "f4")}, {"model": described})
    with pytest.raises(ValueError, match=r"/m: "):
        pr.Model.load(tmp_path / "m")


def test_a_small_file_that_tells_of_many_layers_costs_nothing(tmp_path):
    many = {"type": "LSTM", "input_size": 3, "hidden_size": 5, "num_layers": 10**9}
    checkpoint.save(tmp_path / "m", {"a": np.zeros(1, "f4")}, {"model": many})
    with pytest.raises(ValueError, match="1,000,000,000 recurrent layers, and there are 1 arrays"):
        pr.Model.load(tmp_path / "m")
    text = np.frombuffer(json.dumps(many).encode(), "u1")
    with pytest.raises(ValueError, match="1,000,000,000 recurrent layers"):
        npz.read(archive(tmp_path / "m.npz", a=npy(np.zeros(1, "f4")), **{npz.DESCRIPTION: npy(text)}))


# ---- archives ----------------------------------------------------------------------------------------------------


def archive(path, compression=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def npy(array, **header):
    out = io.BytesIO()
    if header:
        told = {"descr": "<f4", "fortran_order": False, "shape": (2,)} | header
        np.lib.format.write_array_header_1_0(out, told)
        return out.getvalue() + array.tobytes()
    np.save(out, array)
    return out.getvalue()


TWO = np.zeros(2, "f4")


@pytest.mark.parametrize(
    ("members", "compression", "words"),
    [
        ({"a": npy(TWO, shape=(2**40, 2**10))}, zipfile.ZIP_STORED, "'a.npy': 8 bytes"),
        ({"a": npy(TWO, shape=(True, 2))}, zipfile.ZIP_STORED, "expected an array of numbers"),
        ({"a": npy(TWO, shape=(-1,))}, zipfile.ZIP_STORED, "expected an array of numbers"),
        ({"a": npy(TWO, descr="|O")}, zipfile.ZIP_STORED, "expected an array of numbers"),
        ({"a": npy(TWO, descr="<U1")}, zipfile.ZIP_STORED, "expected an array of numbers"),
        ({"a": npy(TWO)[:-1]}, zipfile.ZIP_STORED, "7 bytes"),
        ({"a": b"\x93NUMPY\x03\x00"}, zipfile.ZIP_STORED, "format"),
        ({"a": b"nothing"}, zipfile.ZIP_STORED, "magic"),
        ({"a": npy(TWO)}, zipfile.ZIP_DEFLATED, "compressed"),
        ({npz.DESCRIPTION: npy(np.frombuffer(b"{", "u1"))}, zipfile.ZIP_STORED, "polyrnn.json"),
        ({"a": npy(np.full(2, np.nan, "f4"))}, zipfile.ZIP_STORED, r"a: holds nan at \(0,\)"),
    ],
)
def test_hostile_archives(members, compression, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        npz.read(archive(tmp_path / "bad.npz", compression, **members))


def test_archives_cut_short_and_foreign_ones(tmp_path):
    path, gru = tmp_path / "m.npz", pr.GRU(3, 5)
    npz.save(path, gru, gru.init(seed=0))
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"m.npz"):
            npz.read(path)


def test_an_archive_without_a_description_is_a_state_dict(tmp_path):
    rnn = pr.RNN(3, 5, nonlinearity="relu")
    params = rnn.init(seed=0)
    np.savez(tmp_path / "m.npz", **{f"enc.{name}": array for name, array in params.items()})
    layer, found = npz.load(tmp_path / "m.npz", nonlinearity="relu")
    assert layer == rnn and all(np.array_equal(found[name], params[name]) for name in params)


# ---- arrays of other libraries -----------------------------------------------------------------------------------


def test_memory_is_shared_and_errors_are_words():
    x = np.random.default_rng(0).standard_normal((2, 3))
    assert np.shares_memory(dlpack.from_dlpack((x, {"a": x}))[1]["a"], x)
    with pytest.raises(TypeError, match="list has no __dlpack__"):
        dlpack.from_dlpack([1.0])

    class Elsewhere:
        def __dlpack__(self):
            raise AssertionError

        def __dlpack_device__(self):
            return (7, 0)

    with pytest.raises(ValueError, match="device 7"):
        dlpack.from_dlpack(Elsewhere())


def test_jax_takes_and_gives():
    jax = pytest.importorskip("jax")
    x = jax.numpy.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(dlpack.from_dlpack(x), np.arange(6.0).reshape(2, 3))
    assert isinstance(dlpack.from_dlpack(np.ones(3, "f4"), "jax"), jax.Array)


@pytest.mark.torch
def test_pytorch_takes_and_gives():
    torch = pytest.importorskip("torch")
    x = torch.randn(7, 2, 3, requires_grad=True)
    inside = dlpack.from_dlpack(x)
    assert inside.__array_interface__["data"][0] == x.data_ptr()
    layer = pr.LSTM(3, 5)
    y, _ = layer(layer.init(), inside)
    assert torch.from_dlpack(y).data_ptr() == y.__array_interface__["data"][0]
    with pytest.raises(TypeError, match="bfloat16"):
        dlpack.from_dlpack(x.bfloat16())
