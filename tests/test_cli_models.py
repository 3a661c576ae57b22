"""The commands for models of all kinds: convert, run, inspect."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import polyrnn as pr

pytest.importorskip("typer", reason='the command line needs pip install "polyrnn[cli]"')
pytest.importorskip("rich")

from typer.testing import CliRunner

from polyrnn.cli._app import app

STORED = Path(__file__).parent / "stored"
TORCH = STORED / "torch_modules.safetensors"


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def done(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def refused(*arguments):
    result = run(*arguments)
    assert result.exit_code == 2 and result.stderr.startswith("Error: "), (result.output, result.exception)
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_convert_tells_what_it_found_and_how_far_it_is(tmp_path):
    words = done("convert", TORCH, tmp_path / "m.npz", "--name", "encoder.lstm", "--batch-first")
    assert "torch, 7 recurrent layers" in words
    assert (
        "encoder.lstm LSTM of 11, input 5, 2 layers, both directions, gates i f g o, 4,664 parameters, float32" in words
    )
    assert "read back, a difference of 0.0e+00 in the outputs of 1 recurrent layer" in words
    assert "exists; --force" in refused("convert", TORCH, tmp_path / "m.npz", "--name", "gru")
    done("convert", TORCH, tmp_path / "m.npz", "--name", "gru", "--force")
    assert "GRU" in done("inspect", tmp_path / "m.npz")


def test_there_and_back_again(tmp_path):
    done("convert", TORCH, tmp_path / "a.npz", "--name", "gru")
    done("convert", tmp_path / "a.npz", tmp_path / "b.safetensors")
    done("convert", tmp_path / "b.safetensors", tmp_path / "c.safetensors", "--to", "torch")
    back, tensors = load_file(tmp_path / "c.safetensors"), load_file(TORCH)
    assert back.keys() == {name.removeprefix("gru.") for name in tensors if name.startswith("gru.")}
    for name, array in back.items():
        np.testing.assert_array_equal(array, tensors[f"gru.{name}"])
    assert pr.Model.load(tmp_path / "b.safetensors").module == pr.GRU(5, 7, bias=False, bidirectional=True)


def test_a_whole_model_becomes_a_state_dict(tmp_path):
    module = pr.Sequential(embedding=pr.Embedding(13, 3), lstm=pr.LSTM(3, 5), head=pr.Linear(5, 2))
    model = pr.Model(module, module.init(seed=0))
    model.save(tmp_path / "m.safetensors")
    done("convert", tmp_path / "m.safetensors", tmp_path / "t.safetensors", "--to", "torch")
    assert load_file(tmp_path / "t.safetensors").keys() == model.params.keys()
    assert "reset_after=False" in refused_gru(tmp_path)


def refused_gru(folder):
    gru = pr.GRU(3, 5, reset_after=False)
    pr.Model(gru, gru.init()).save(folder / "g.safetensors")
    words = refused("convert", folder / "g.safetensors", folder / "x.safetensors", "--to", "torch")
    assert not (folder / "x.safetensors").exists()
    return words


def test_run_writes_what_the_library_gives(tmp_path):
    rng = np.random.default_rng(2)
    x, lengths = rng.standard_normal((7, 9, 5)).astype("f4"), rng.integers(0, 8, 9)
    h = rng.standard_normal((2, 9, 7)).astype("f4")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "l.npy", lengths)
    np.savez(tmp_path / "s.npz", h=h)
    paths = ("--lengths", tmp_path / "l.npy", "--state", tmp_path / "s.npz", "--state-out", tmp_path / "after.npz")
    words = done("run", TORCH, tmp_path / "x.npy", "--name", "gru", "--out", tmp_path / "y", *paths, "--batch-size", 4)
    assert "(7, 9, 14) float32" in words and "h (2, 9, 7)" in words
    layer, params = pr.interop.torch.load(TORCH, "gru")
    y, after = layer(params, x, h, lengths)
    np.testing.assert_allclose(np.load(tmp_path / "y"), y, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.load(tmp_path / "after.npz")["h"], after, rtol=0, atol=1e-6)
    assert "exists; --force" in refused("run", TORCH, tmp_path / "x.npy", "--name", "gru", "--out", tmp_path / "y")


def test_input_of_another_dtype_is_taken_as_the_models(tmp_path):
    x = np.random.default_rng(2).standard_normal((7, 3, 5))
    np.save(tmp_path / "x.npy", x)
    command = ("run", TORCH, tmp_path / "x.npy", "--name", "gru", "--out", tmp_path / "y.npy")
    assert "Input     float64, taken as float32" in done(*command)
    layer, params = pr.interop.torch.load(TORCH, "gru")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), layer(params, x.astype("f4"))[0], rtol=0, atol=1e-6)


def test_inspect_shows_shapes_and_equations(tmp_path):
    words = done("inspect", TORCH)
    assert "encoder.project" in words and "weight_hr_l0 (3, 11) float32" in words
    assert "c_t = f * c_{t-1} + i * g" in words and "(4)  h_t = (1 - z) * n + z * h_{t-1}" in words
    assert "Equations" not in words and "dW" not in words
    assert "c_t" not in done("inspect", TORCH, "--no-equations")
    module = pr.Sequential(gru=pr.GRU(3, 5, reset_after=False), head=pr.Linear(5, 2))
    pr.Model(module, module.init(seed=0)).save(tmp_path / "m.safetensors")
    words = done("inspect", tmp_path / "m.safetensors")
    assert "head: Linear(in_features=5, out_features=2)" in words and "reset before" in words
    assert f"Parameters  {sum(a.size for a in module.init().values()):,}" in words


def test_bad_input_is_one_line(tmp_path):
    (tmp_path / "m.pt").write_bytes(b"PK\x03\x04 and so on")
    (tmp_path / "m.foo").write_bytes(b"")
    (tmp_path / "m.safetensors").write_bytes(b"12345678901")
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 4), "f4"))
    (tmp_path / "y.npy").write_bytes(b"\x93NUMPY")
    out = tmp_path / "out.npz"
    assert "a pickle" in refused("convert", tmp_path / "m.pt", out)
    assert "what format is that?" in refused("convert", tmp_path / "m.foo", out)
    assert "m.safetensors" in refused("inspect", tmp_path / "m.safetensors")
    assert "expected one of polyrnn, torch" in refused("inspect", TORCH, "--from", "pickle")
    assert "7 recurrent layers" in refused("convert", TORCH, out)
    assert "pickles are not written" in refused("convert", TORCH, tmp_path / "o.pt", "--name", "gru")
    assert "No such file" in refused("inspect", tmp_path / "none.npz")
    assert "(any, any, 5)" in refused("run", TORCH, tmp_path / "x.npy", "--name", "gru", "--out", out)
    assert "not an array" in refused("run", TORCH, tmp_path / "y.npy", "--name", "gru", "--out", out)
    assert not out.exists()


def test_what_train_writes_can_be_inspected_and_run(tmp_path):
    (tmp_path / "t.txt").write_text("abc abd abe\n" * 200)
    sizes = ("--hidden-size", 5, "--embedding-size", 3, "--batch-size", 4, "--sequence-length", 8, "--steps", 3)
    done("train", tmp_path / "t.txt", "--out", tmp_path / "o", *sizes, "--sample-length", 0)
    path = tmp_path / "o" / "model.safetensors"
    assert "Embedding(num_embeddings=7, embedding_dim=3)" in done("inspect", path)
    np.save(tmp_path / "ids.npy", np.array([[0, 1], [2, 3], [4, 5]]))
    done("run", path, tmp_path / "ids.npy", "--out", tmp_path / "y.npy")
    assert np.load(tmp_path / "y.npy").shape == (3, 2, 7)


def test_the_way_through_all_formats(tmp_path):
    pytest.importorskip("h5py")
    pytest.importorskip("onnx")
    chain = ("a.npz", "b.onnx", "c.weights.h5", "d.npz", "e.safetensors")
    done("convert", TORCH, tmp_path / chain[0], "--name", "gru")
    for before, after in itertools.pairwise(chain):
        assert "read back, a difference of 0.0e+00 in the outputs" in done(
            "convert", tmp_path / before, tmp_path / after
        )
    x = np.random.default_rng(4).standard_normal((7, 3, 5)).astype("f4")
    layer, params = pr.interop.torch.load(TORCH, "gru")
    found = pr.Model.load(tmp_path / chain[-1])
    assert found.module.batch_first, "as Keras has it"
    y = found.predict(x.swapaxes(0, 1)).y
    np.testing.assert_allclose(y.swapaxes(0, 1), layer(params, x)[0], rtol=0, atol=1e-6)


def test_whole_and_deep_models_come_back_from_onnx(tmp_path):
    pytest.importorskip("onnx")
    module = pr.Sequential(
        pr.Dropout(0.5), inner=pr.Sequential(lstm=pr.LSTM(3, 5, 2, bidirectional=True)), head=pr.Linear(10, 2)
    )
    params = module.init(seed=0)
    pr.Model(module, params).save(tmp_path / "a.safetensors")
    assert "read back, a difference of " in done("convert", tmp_path / "a.safetensors", tmp_path / "b.onnx")
    done("convert", tmp_path / "b.onnx", tmp_path / "c.npz")
    back = pr.interop.npz.read(tmp_path / "c.npz")
    assert back.module.members == module.members
    for name, array in params.items():
        np.testing.assert_array_equal(back.params[name], array)
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(tmp_path / "b.onnx")
    graph.graph.initializer[0].raw_data = bytes(len(graph.graph.initializer[0].raw_data))  # somebody has changed it
    onnx.save(graph, tmp_path / "d.onnx")
    assert "2 recurrent layers" in done("inspect", tmp_path / "d.onnx") or "l1" in done("inspect", tmp_path / "d.onnx")


def test_every_layer_is_compared_with_its_own_options(tmp_path):
    pytest.importorskip("h5py")
    module = pr.Sequential(a=pr.RNN(3, 3), b=pr.RNN(3, 5, nonlinearity="relu", batch_first=False))
    pr.Model(module, module.init(seed=0)).save(tmp_path / "m.safetensors")
    assert "0.0e+00 in the outputs of 2" in done(
        "convert", tmp_path / "m.safetensors", tmp_path / "t.safetensors", "--to", "torch"
    )
    for k, layer in enumerate(
        (
            pr.RNN(3, 5, nonlinearity="relu"),
            pr.LSTM(3, 5, 2, bidirectional=True),
            pr.GRU(3, 5, reset_after=False, bias=False),
            pr.LSTM(3, 5, activations=("relu", "relu", "softsign", "relu", "softsign")),
        )
    ):
        pr.Model(layer, layer.init(seed=1)).save(tmp_path / f"{k}.safetensors")
        for extension in ("weights.h5", "keras"):
            words = done("convert", tmp_path / f"{k}.safetensors", tmp_path / f"{k}.{extension}")
            assert "in the outputs of 1 recurrent layer" in words


def test_what_is_left_out_is_told(tmp_path):
    words = done("convert", TORCH, tmp_path / "m.npz", "--name", "relu", "--nonlinearity", "relu")
    assert "Left out  encoder.embedding.weight, head.bias, head.weight" in words
    assert "--batch-first has no meaning" in refused("convert", tmp_path / "m.npz", tmp_path / "n.npz", "--batch-first")


def test_a_graph_runs_whole(tmp_path):
    onnx = pytest.importorskip("polyrnn.interop.onnx")
    pytest.importorskip("onnx")
    module = pr.Sequential(embedding=pr.Embedding(13, 3), lstm=pr.LSTM(3, 5), head=pr.Linear(5, 2))
    params = module.init(seed=0)
    onnx.save(tmp_path / "m.onnx", module, params, lengths=True, state=True)
    rng = np.random.default_rng(3)
    ids, lengths = rng.integers(0, 13, (7, 3)), np.array([7, 2, 5])
    h, c = (rng.standard_normal((1, 3, 5)).astype("f4") for _ in "hc")
    np.save(tmp_path / "x.npy", ids)
    np.save(tmp_path / "l.npy", lengths)
    np.savez(tmp_path / "s.npz", **{"lstm.h0": h, "lstm.c0": c})
    command = ("run", tmp_path / "m.onnx", tmp_path / "x.npy", "--out", tmp_path / "y.npy")
    given = ("--lengths", tmp_path / "l.npy", "--state", tmp_path / "s.npz", "--state-out", tmp_path / "after.npz")
    done(*command, *given)
    y, (_, after, _) = module(params, ids, (None, (h, c), None), lengths)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), y, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.load(tmp_path / "after.npz")["lstm.c"], after[1], rtol=0, atol=1e-6)
    assert "has the inputs x, lengths, lstm.h0, lstm.c0, and given were x" in refused(*command, "--force")
    assert "LSTM of 5" in done("inspect", tmp_path / "m.onnx")
