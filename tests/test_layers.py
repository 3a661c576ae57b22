"""What the layers promise beside their numbers; and that the references of the contract tests agree."""

import copy
import dataclasses
import pickle
import tracemalloc
from typing import Any

import cases
import numpy as np
import pytest
from cases import LAYERS, layer_of, packed
from subjects import ALL, near, only_kernel, with_kernels

import polyrnn as pr
from polyrnn import _recurrent

# ---- the references themselves: stored results, differences and loops agree ------------------------------------


@pytest.mark.parametrize("name", cases.ANALYTIC)
def test_complex_steps_are_the_stored_gradients(name):
    expected, exact = cases.expected(name), cases.complex_step(cases.get(name))
    own = {
        **expected.params,
        "x": expected.x,
        **dict(zip(cases.get(name).layer.cell.states, expected.dstate0, strict=True)),
    }
    for key, value in own.items():
        near(exact[key], value, "gradient", key)


@pytest.mark.parametrize("name", cases.NAMES)
def test_differences_are_the_stored_gradients(name, rng):
    case, expected = cases.get(name), cases.expected(name)
    own = {**expected.params, "x": expected.x, **dict(zip(case.layer.cell.states, expected.dstate0, strict=True))}
    for key, (direction, slope) in cases.differences(case, rng).items():
        assert abs(slope) > 1e-4
        near(np.sum(own[key] * direction), slope, "differences", key)


# ---- the door ----------------------------------------------------------------------------------------------------


def test_a_good_call_does_not_let_a_bad_one_through():
    """What passed the checks is remembered by its form: everything that the checks look at must be part of it."""
    lstm = pr.LSTM(3, 5)
    params, x, h = lstm.init(seed=0), np.ones((7, 2, 3), "float32"), np.ones((1, 2, 5), "float32")
    lstm(params, x, (h, None))
    renamed = {name.replace("_l0", "_l1"): value for name, value in params.items()}
    bad = {
        "names": (renamed, x, (h, None)),
        "a parameter's shape": (params | {"weight_hh_l0": params["weight_hh_l0"][:, :4]}, x, (h, None)),
        "a parameter's dtype": (params | {"weight_hh_l0": params["weight_hh_l0"].astype("float64")}, x, (h, None)),
        "a parameter's type": (params | {"weight_hh_l0": params["weight_hh_l0"].view(np.matrix)}, x, (h, None)),
        "x's shape": (params, x[..., :2], (h, None)),
        "x's rank": (params, x[0], (h, None)),
        "x's dtype": (params, x.astype("float64"), (h, None)),
        "x is a list": (params, x.tolist(), (h, None)),
        "the state's batch": (params, x, (h[:, :1], None)),
        "the cell state's dtype": (params, x, (h, h.astype("float64"))),
        "no dict": (list(params.values()), x, (h, None)),
    }
    for name, arguments in [*bad.items(), *bad.items()]:
        try:
            lstm(*arguments)
        except (ValueError, TypeError):
            continue
        pytest.fail(f"{name}: let through")
    y, _ = lstm(params, x, (h, None))
    assert y.shape == (7, 2, 5)


def test_a_layer_remembers_a_bounded_number_of_forms(monkeypatch):
    monkeypatch.setattr(_recurrent, "_ACCEPTED", 3)
    rnn = pr.RNN(2, 3)
    params = rnn.init(seed=0)
    for steps in range(11):
        assert rnn(params, np.ones((steps, 1, 2), "float32"))[0].shape == (steps, 1, 3)
        assert len(rnn._accepted) <= 3
    assert rnn._accepted


def test_a_layer_that_was_called_and_its_backend_can_be_pickled():
    rnn = pr.RNN(2, 3)
    params, x = rnn.init(seed=0), np.ones((4, 1, 2), "float32")
    y, _ = rnn(params, x)
    again = pickle.loads(pickle.dumps(rnn))
    assert again == rnn and hash(again) == hash(rnn)
    np.testing.assert_array_equal(again(params, x)[0], y)
    assert pickle.loads(pickle.dumps(pr.backend("numpy"))) is pr.backend("numpy")


# ---- descriptions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_are_values(kind):
    layer, same = layer_of(kind, 3, 5), layer_of(kind, 3, 5)
    assert layer == same and hash(layer) == hash(same)
    assert layer != layer_of(kind, 3, 7) and layer != layer_of(kind, 3, 5, bias=False)
    assert layer != layer_of(kind, 3, 5, traced=True)
    assert {layer: 1}[same] == 1
    assert copy.deepcopy(layer) == layer
    assert repr(layer).startswith(type(layer).__name__ + "(input_size=3, hidden_size=5")
    with pytest.raises(dataclasses.FrozenInstanceError):
        layer.hidden_size = 7
    assert pickle.loads(pickle.dumps(layer)) == layer


def test_layers_of_different_kinds_differ():
    layers = [layer_of(kind, 3, 5) for kind in LAYERS]
    assert len(set(layers)) == len(layers)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kind", "gates"), [("rnn_tanh", 1), ("rnn_relu", 1), ("lstm", 4), ("gru", 3), ("gru_before", 3)]
)
def test_parameters_have_pytorchs_names_and_shapes(kind, gates, bias):
    expected = {"weight_ih_l0": (gates * 5, 3), "weight_hh_l0": (gates * 5, 5)}
    expected |= {"bias_ih_l0": (gates * 5,), "bias_hh_l0": (gates * 5,)} if bias else {}
    layer = layer_of(kind, 3, 5, bias)
    assert list(layer.shapes().items()) == list(expected.items())
    assert {k: v.shape for k, v in layer.init().items()} == expected


# ---- initial parameters ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_same_seed_gives_the_same_numbers_everywhere(subject, kind, dtype):
    layer = layer_of(kind, 3, 5)
    params = layer.init(seed=11, backend=subject.library, dtype=dtype)
    host = layer.init(seed=11, backend="numpy", dtype="float64")
    subject.equal(params, {k: v.astype(dtype) for k, v in host.items()}, dtype)
    assert layer.init(seed=11, backend=subject.backend, dtype=dtype).keys() == params.keys()


@pytest.mark.parametrize("kind", LAYERS)
def test_initial_parameters(kind):
    layer = layer_of(kind, 3, 16)
    first, again, other = (layer.init(seed=seed, dtype="float64") for seed in (0, 0, 1))
    assert all(np.array_equal(first[k], again[k]) for k in first)
    assert not any(np.array_equal(first[k], other[k]) for k in first)
    everything = np.concatenate([v.ravel() for v in first.values()])
    assert np.abs(everything).max() <= 0.25 and everything.std() == pytest.approx(0.25 / 3**0.5, rel=0.1)
    assert len(np.unique(everything)) == everything.size
    generator = np.random.default_rng(0)
    assert all(np.array_equal(first[k], v) for k, v in layer.init(seed=generator, dtype="float64").items())
    assert not np.array_equal(first["weight_ih_l0"], layer.init(seed=generator, dtype="float64")["weight_ih_l0"])
    assert all(v.dtype == "float32" for v in layer.init().values())


def test_the_numbers_of_a_seed_stay():
    params = pr.LSTM(3, 5).init(seed=0, dtype="float64")
    uniform = np.random.default_rng(0).uniform(-(5**-0.5), 5**-0.5, (20, 3))
    assert np.array_equal(params["weight_ih_l0"], uniform)


def test_a_layer_without_dropout_takes_a_seed(subject):
    case = cases.get("gru/bias/full")
    params, x = subject.array(case.params), subject.array(case.x)
    layer = subject.module(case.layer)
    plain = subject.host(layer(params, x)[0])
    subject.close(layer(params, x, seed=3)[0], plain, "same", "float64")
    subject.close(layer.forward(params, x, seed=3)[0], plain, "same", "float64")


# ---- memory ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numpy", with_kernels((ALL["numpy"],)), ids=repr)
@pytest.mark.parametrize("kind", LAYERS)
def test_inference_keeps_nothing_for_backward(numpy, kind):
    layer = layer_of(kind, 16, 32)
    params = layer.init(dtype="float64")

    def beyond_the_output(steps: int) -> int:
        x = np.random.default_rng(0).standard_normal((steps, 8, 16))
        layer(params, x)  # what is made once
        tracemalloc.start()
        try:
            y, _ = layer(params, x)
            return tracemalloc.get_traced_memory()[1] - y.nbytes
        finally:
            tracemalloc.stop()

    with only_kernel(numpy.kernel):
        few, many = beyond_the_output(128), beyond_the_output(512)
    # One more output may stand beside the first while blocks are joined; residuals would be two of them or more.
    assert many - few < 1.1 * (512 - 128) * 8 * 32 * 8


# ---- live comparison (tox -e torch) ----------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("lengths", [None, [5, 11, 1, 7]], ids=["full", "lengths"])
@pytest.mark.parametrize("kind", [kind for kind in LAYERS if kind != "gru_before"])
def test_pytorch_itself(kind, lengths, rng):
    import torch

    layer = layer_of(kind, 3, 5)
    params = {k: 0.5 * rng.standard_normal(s) for k, s in layer.shapes().items()}
    make = {"rnn_tanh": torch.nn.RNN, "rnn_relu": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind]
    peer = make(3, 5, **({"nonlinearity": "relu"} if kind == "rnn_relu" else {})).double()
    peer.load_state_dict({k: torch.asarray(v) for k, v in params.items()})
    x = rng.standard_normal((11, 4, 3))
    state = tuple(rng.standard_normal((1, 4, 5)) for _ in layer.cell.states)
    leaves = [torch.tensor(v, requires_grad=True) for v in (x, *state)]
    inputs: Any = leaves[0]
    if lengths:
        inputs = torch.nn.utils.rnn.pack_padded_sequence(inputs, torch.tensor(lengths), enforce_sorted=False)
    y, end = peer(inputs, packed(tuple(leaves[1:])))
    if lengths:
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, total_length=11)
    ends = end if isinstance(end, tuple) else (end,)
    dy, dstate = rng.standard_normal((11, 4, 5)), tuple(rng.standard_normal((1, 4, 5)) for _ in state)
    torch.autograd.backward([y, *ends], [torch.asarray(d) for d in (dy, *dstate)])

    own_y, own_end, tape = layer.forward(params, x, packed(state), lengths=lengths)
    grads = layer.backward(tape, dy, packed(dstate))
    near(own_y, y.detach(), "forward")
    own_ends = own_end if isinstance(own_end, tuple) else (own_end,)
    for a, b in zip(own_ends, ends, strict=True):
        near(a, b.detach(), "forward")
    own = [*grads.params.values(), grads.x, *(grads.state if isinstance(grads.state, tuple) else (grads.state,))]
    theirs = [*(dict(peer.named_parameters())[k].grad for k in params), *(leaf.grad for leaf in leaves)]
    for a, b in zip(own, theirs, strict=True):
        near(a, b, "gradient")


@pytest.mark.parametrize("make", [pr.RNN, pr.LSTM, pr.GRU])
@pytest.mark.parametrize("on", [True, False])
def test_a_steps_output_is_not_its_state(make, on):
    """Who writes into the output of a step must not change the next one."""
    layer = make(3, 5)
    with pr.use_kernels(on):
        y, state = layer.step(layer.init(), np.ones((2, 3), "float32"))
    h = state[0] if isinstance(state, tuple) else state
    assert not np.shares_memory(y, h)
    np.testing.assert_array_equal(y, h[0])
