"""Equinox, cuDNN, CS231n and the textbook: stored results, loops written from their equations, and the live cells."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

import polyrnn as pr
from polyrnn.interop import cs231n, cudnn, equinox, textbook

with safe_open(Path(__file__).parent / "stored" / "equinox.safetensors", "np") as file:
    STORED = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    ABOUT: dict[str, Any] = json.loads(file.metadata()["about"])
NEAR = {"rtol": 0, "atol": 1e-6}  # float32; the largest error measured is 1.5e-7
CLOSE = {"rtol": 0, "atol": 1e-13}  # float64; the largest error measured is 3.6e-15
T, N, I, H = 7, 3, 5, 11


def sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


def drawn(layer: Any, rng: np.random.Generator, dtype: str = "float64") -> dict[str, np.ndarray]:
    """Random parameters, biases too."""
    return {name: (0.3 * rng.standard_normal(shape)).astype(dtype) for name, shape in layer.shapes().items()}


def states(layer: Any, rng: np.random.Generator, dtype: str = "float64") -> Any:
    """A random initial state."""
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    h = rng.standard_normal((count, N, layer.proj_size or layer.hidden_size)).astype(dtype)
    c = rng.standard_normal((count, N, layer.hidden_size)).astype(dtype)
    return (h, c) if type(layer) is pr.LSTM else h


def parts(state: Any) -> dict[str, np.ndarray]:
    return dict(zip("hc", state if isinstance(state, tuple) else (state,), strict=False))


def agree(mine: tuple, theirs: tuple, near: dict) -> None:
    """Outputs and final states."""
    (y, end), (their_y, their_end) = mine, theirs
    np.testing.assert_allclose(y, their_y, **near)
    for part, array in parts(end).items():
        np.testing.assert_allclose(array, their_end[part].reshape(array.shape), **near)


def same(one: Any, other: Any) -> bool:
    """Whether two trees have the same keys, and arrays of the same dtype and numbers."""
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return one.dtype == other.dtype and np.array_equal(one, other)


# ---- Equinox ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ABOUT["cells"])
def test_a_cell_gives_what_equinox_gave(case):
    kind, bias = ABOUT["cells"][case]
    prefix = f"{case}/tree/"
    tree = {key.removeprefix(prefix): array for key, array in STORED.items() if key.startswith(prefix)}
    tree = {name: array for name, array in tree.items() if "/" not in name}
    layer, params = equinox.load({"net": {"cells": [tree]}}, "net.cells.0")
    assert layer == {"LSTMCell": pr.LSTM, "GRUCell": pr.GRU}[kind](I, H, bias=bias)
    state = tuple(STORED[f"{case}/{part}"][None] for part in "hc" if f"{case}/{part}" in STORED)
    mine = layer(params, STORED[f"{case}/x"], state if len(state) > 1 else state[0])
    end = {part: STORED[f"{case}/end/{part}"] for part in "hc" if f"{case}/{part}" in STORED}
    agree(mine, (STORED[f"{case}/y"], end), NEAR)
    assert same(equinox.dump(layer, params), tree)
    if bias:
        assert not params["bias_hh_l0"][: None if kind == "LSTMCell" else 2 * H].any()
    else:
        assert same(equinox.load({**tree, "bias": None, "bias_n": None}).params, params)


EQUINOX: list[tuple[str, str, Any, str]] = [
    ("LSTMCell", "weight_hh", np.zeros((2 * H, H)), r"net.weight_hh has shape \(22, 11\); expected \(4H, H\)"),
    ("LSTMCell", "weight_ih", np.zeros((4 * H, I, 1)), r"net.weight_ih has shape \(44, 5, 1\); expected \(44, any\)"),
    ("LSTMCell", "bias", np.zeros(3 * H), r"net.bias has shape \(33,\); expected \(44,\)"),
    ("LSTMCell", "bias_n", np.zeros(H), "net: a cell .lstm. has bias_n beside"),
    ("LSTMCell", "bias_hh", np.zeros(4 * H), "net: a cell .lstm. has bias_hh beside"),
    ("GRUCell", "bias_n", None, "net: a cell .gru. lacks bias_n"),
    ("GRUCell", "bias", None, "net: a cell .gru. lacks bias"),
    ("GRUCell", "bias", np.zeros(3 * H), "net: arrays of different dtypes"),
    ("GRUCell", "bias_n", np.float32([0] * (H - 1) + [np.nan]), r"net.bias_n.*\(10,\)"),
    ("GRUCell", "weight_hh", np.zeros((0, 0)), "net"),
    ("GRUCell", "weight_ih", None, "no recurrent layer"),
]


@pytest.mark.parametrize(("kind", "name", "what", "words"), EQUINOX, ids=[words[:30] for *_, words in EQUINOX])
def test_a_broken_equinox_cell_is_refused(kind, name, what, words):
    layer = {"LSTMCell": pr.LSTM, "GRUCell": pr.GRU}[kind](I, H)
    tree = equinox.dump(layer, layer.init(seed=0)) | {name: what}
    with pytest.raises(ValueError, match=words):
        equinox.load({"net": tree})


def test_equinox_takes_what_dump_makes(rng):
    eqx = pytest.importorskip("equinox")
    jax = pytest.importorskip("jax")
    for kind, of in (("LSTMCell", pr.LSTM), ("GRUCell", pr.GRU)):
        for bias in (True, False):
            layer = of(I, H, bias=bias)
            params = drawn(layer, rng, "float32")
            tree = equinox.dump(layer, params)
            cell = getattr(eqx.nn, kind)(I, H, use_bias=bias, dtype="float32", key=jax.random.key(0))
            names = tuple(tree)
            cell = eqx.tree_at(
                lambda cell, names=names: [getattr(cell, n) for n in names],
                cell,
                [jax.numpy.asarray(array) for array in tree.values()],
            )
            x, state = np.float32(rng.standard_normal((T, N, I))), states(layer, rng, "float32")
            carry, y = tuple(a[0] for a in state) if isinstance(state, tuple) else state[0], []
            with jax.numpy_dtype_promotion("standard"):
                for x_t in x:
                    carry = jax.vmap(cell)(x_t, carry)
                    y.append(carry[0] if isinstance(carry, tuple) else carry)
            agree(layer(params, x, state), (np.stack(y), parts(carry)), NEAR)
            found = equinox.find([cell, eqx.nn.Linear(2, 3, key=jax.random.key(0))])
            assert list(found) == ["0"]
            assert found["0"].layer == layer
            assert same(equinox.dump(*found["0"]), tree)


# ---- cuDNN -----------------------------------------------------------------------------------------------------------


def cudnn_steps(tree: dict, x: np.ndarray, h: np.ndarray, c: np.ndarray, act: Any) -> tuple:
    """One pseudoLayer over time, x (T, N, I): the equations of cuDNN's documentation of cudnnRNNMode_t, by linLayerID.

    There W_i is the matrix of the input gate on x (0), R_i that on h (4); W_f and R_f of the forget gate (1, 5), W_c
    and R_c of the new memory (2, 6), W_o and R_o of the output gate (3, 7). Of a GRU W_r, W_i, W_h are 0, 1, 2, its i_t
    is the update gate, and h_t = (1 - i_t) h'_t + i_t h_{t-1}.
    """

    def w(n: int, a: np.ndarray) -> np.ndarray:
        return a @ tree[n]["matrix"].T + tree[n].get("bias", 0)

    y = []
    for x_t in x:
        if len(tree) == 2:
            h = act(w(0, x_t) + w(1, h))
        elif len(tree) == 6:
            r, i = sigmoid(w(0, x_t) + w(3, h)), sigmoid(w(1, x_t) + w(4, h))
            h = (1 - i) * np.tanh(w(2, x_t) + r * w(5, h)) + i * h
        else:
            i, f, o = (sigmoid(w(n, x_t) + w(n + 4, h)) for n in (0, 1, 3))
            c = f * c + i * np.tanh(w(2, x_t) + w(6, h))
            h = o * np.tanh(c)
            h = h @ tree[8]["matrix"].T if 8 in tree else h
        y.append(h)
    return np.stack(y), h, c


def cudnn_run(tree: dict, both: bool, x: np.ndarray, state: Any, act: Any = np.tanh) -> tuple:
    """All pseudoLayers."""
    given, ends, ways = parts(state), [], 2 if both else 1
    for k in range(0, len(tree), ways):
        outputs = []
        for d in range(ways):
            h, c = given["h"][k + d], given.get("c", given["h"])[k + d]
            y, *end = cudnn_steps(tree[k + d], x[::-1] if d else x, h, c, act)
            outputs.append(y[::-1] if d else y)
            ends.append(end)
        x = np.concatenate(outputs, axis=-1)
    return x, {part: np.stack([end["hc".index(part)] for end in ends]) for part in given}


CUDNN = [
    pr.RNN(I, H),
    pr.RNN(I, H, num_layers=2, nonlinearity="relu", bidirectional=True),
    pr.GRU(I, H),
    pr.GRU(I, H, num_layers=2, bidirectional=True),
    pr.LSTM(I, H),
    pr.LSTM(I, H, num_layers=3, bias=False),
    pr.LSTM(I, H, num_layers=2, bidirectional=True),
    pr.LSTM(I, H, num_layers=2, bidirectional=True, proj_size=2),
]


@pytest.mark.parametrize(
    "layer", CUDNN, ids=lambda layer: f"{type(layer).__name__}-{layer.num_layers}-{layer.proj_size}"
)
def test_cudnns_ids_name_the_gates(layer, rng):
    params = drawn(layer, rng)
    tree = cudnn.dump(layer, params)
    x, state = rng.standard_normal((T, N, I)), states(layer, rng)
    nonlinearity = getattr(layer, "nonlinearity", "tanh")
    act = {"tanh": np.tanh, "relu": lambda a: np.maximum(a, 0)}[nonlinearity]
    agree(layer(params, x, state), cudnn_run(tree, layer.bidirectional, x, state, act), CLOSE)
    options = {"bidirectional": layer.bidirectional, "nonlinearity": nonlinearity}
    back, again = cudnn.load(tree, **options)
    assert back == layer
    assert same(again, params)
    assert same(cudnn.dump(back, again), tree)
    assert same(cudnn.load([list(ids.values()) for ids in tree.values()], "", **options).params, params)


@pytest.mark.parametrize("side", [range(4), range(4, 8)])
def test_cudnns_single_biases(side, rng):
    """CUDNN_RNN_SINGLE_INP_BIAS and CUDNN_RNN_SINGLE_REC_BIAS."""
    layer = pr.LSTM(I, H)
    tree = cudnn.dump(layer, drawn(layer, rng))
    for n in side:
        del tree[0][n]["bias"]
    back, params = cudnn.load(tree)
    assert back == layer
    x, state = rng.standard_normal((T, N, I)), states(layer, rng)
    agree(back(params, x, state), cudnn_run(tree, False, x, state), CLOSE)
    assert not params["bias_ih_l0" if side[0] == 0 else "bias_hh_l0"].any()


def broken_cudnn(change: Any) -> dict:
    layer = pr.LSTM(I, H, num_layers=2, proj_size=2)
    tree = cudnn.dump(layer, layer.init(seed=0))
    change(tree)
    return tree


BROKEN_CUDNN: list[tuple[Any, str]] = [
    (lambda tree: tree.clear(), "0 pseudoLayers"),
    (lambda tree: tree.update({3: tree[0]}), "source: the dict lacks 2 and has 3 beside"),
    (lambda tree: tree[1].pop(8), "pseudoLayer 1 has 8 linLayerIDs; expected 9"),
    (lambda tree: tree[1].pop(2), "pseudoLayer 1: the dict lacks 2 and has 8 beside"),
    (lambda tree: [tree[k].pop(n) for k in tree for n in (7, 8)], "pseudoLayer 0 has 7 linLayerIDs; expected 2 .RNN"),
    (lambda tree: tree[1][2].pop("matrix"), "pseudoLayer 1, linLayerID 2: the dict lacks matrix"),
    (lambda tree: tree[1][2].update(vector=3), "pseudoLayer 1, linLayerID 2: the dict has vector beside"),
    (lambda tree: tree[1][2].pop("bias"), "7 of 8 linLayerIDs of bias_ih have a bias; expected all or none"),
    (lambda tree: tree[1][8].update(bias=np.zeros(2)), "1 of 2 linLayerIDs of projections have a bias; expected none"),
    (
        lambda tree: tree[1][5].update(matrix=np.zeros((H, 3))),
        r"pseudoLayer 1, linLayerID 5, matrix has shape \(11, 3\)",
    ),
    (lambda tree: tree[1][5].update(bias=np.zeros(H)), "source: arrays of different dtypes"),
    (lambda tree: tree[0][3]["bias"].fill(np.inf), "pseudoLayer 0, linLayerID 3, bias"),
    (lambda tree: tree[0][8].update(matrix=np.zeros((H + 2, H))), "proj_size=13"),
]


@pytest.mark.parametrize(("change", "words"), BROKEN_CUDNN, ids=[words[:30] for _, words in BROKEN_CUDNN])
def test_a_broken_dict_of_cudnns_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        cudnn.load(broken_cudnn(change))


def test_cudnns_options_are_checked():
    tree = broken_cudnn(lambda tree: None)
    assert cudnn.load(tree).layer.num_layers == 2
    with pytest.raises(
        ValueError, match=r"pseudoLayer 1, linLayerID 0, matrix has shape \(11, 2\); expected \(11, 5\)"
    ):
        cudnn.load(tree, bidirectional=True)
    with pytest.raises(ValueError, match="3 pseudoLayers do not make layers of 2 directions"):
        cudnn.load({**tree, 2: tree[1]}, bidirectional=True)
    with pytest.raises(ValueError, match="nonlinearity='elu'"):
        cudnn.load(tree, nonlinearity="elu")
    for source in (3, {0: 3}, np.zeros(3)):
        with pytest.raises(TypeError, match="expected a dict"):
            cudnn.find(source)


@pytest.mark.parametrize("case", ABOUT["vectors"])
def test_the_flat_vector_of_jax_experimental_rnn(case):
    layers, both = ABOUT["vectors"][case]
    lstm = pr.LSTM(I, H, num_layers=layers, bidirectional=both, batch_first=True)
    weights = STORED[f"{case}/weights"]
    layer, params = cudnn.load_flat(lstm, weights)
    assert layer == lstm
    assert list(params) == list(lstm.shapes())
    mine = layer(params, STORED[f"{case}/x"], (STORED[f"{case}/h"], STORED[f"{case}/c"]))
    agree(mine, (STORED[f"{case}/y"], {part: STORED[f"{case}/end/{part}"] for part in "hc"}), NEAR)
    assert same(cudnn.dump_flat(layer, params), weights)
    for wrong in (weights[:-1], weights[None]):
        with pytest.raises(ValueError, match=rf"weights has shape .*expected \({len(weights)},\)"):
            cudnn.load_flat(lstm, wrong)
    with pytest.raises(ValueError, match=r"weights.*\(7,\)"):
        cudnn.load_flat(lstm, np.where(np.arange(len(weights)) == 7, np.float32(np.nan), weights))


def test_jax_cuts_the_vector_as_dump_flat_joins_it(rng):
    jax_rnn = pytest.importorskip("jax.experimental.rnn")
    lstm = pr.LSTM(I, H, num_layers=2, bidirectional=True)
    params = drawn(lstm, rng, "float32")
    cut = jax_rnn.unpack_lstm_weights(cudnn.dump_flat(lstm, params), I, H, 2, True)
    for name, theirs in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), cut, strict=True):
        for k, suffix in enumerate(("_l0", "_l0_reverse", "_l1", "_l1_reverse")):
            np.testing.assert_array_equal(theirs[k], params[name + suffix])


# ---- CS231n ----------------------------------------------------------------------------------------------------------


def cs231n_steps(p: dict, x: np.ndarray, h: np.ndarray, c: np.ndarray | None) -> tuple:
    """Over time, x (T, N, D): rnn_step_forward and lstm_step_forward of the assignment's text."""
    y = []
    for x_t in x:
        a = x_t @ p["Wx"] + h @ p["Wh"] + p["b"]
        if c is None:
            h = np.tanh(a)
        else:
            width = h.shape[1]
            i, f, o = (sigmoid(a[:, k * width : (k + 1) * width]) for k in (0, 1, 2))
            g = np.tanh(a[:, 3 * width :])
            c = f * c + i * g
            h = o * np.tanh(c)
        y.append(h)
    return np.stack(y), {"h": h, "c": c}


@pytest.mark.parametrize("blocks", [1, 4])
def test_cs231n(blocks, rng):
    shapes = {"Wx": (I, blocks * H), "Wh": (H, blocks * H), "b": (blocks * H,)}
    p = {name: 0.4 * rng.standard_normal(shape) for name, shape in shapes.items()}
    more = {"W_embed": np.ones((13, I)), "W_proj": np.ones((2, H)), "b_proj": np.ones(H), "word_to_idx": {"<START>": 1}}
    layer, params = cs231n.load({"model": {**p, **more}}, "model")
    assert layer == (pr.RNN(I, H) if blocks == 1 else pr.LSTM(I, H))
    x, state = rng.standard_normal((T, N, I)), states(layer, rng)
    h, c = (state[0][0], state[1][0]) if blocks == 4 else (state[0], None)
    agree(layer(params, x, state), cs231n_steps(p, x, h, c), CLOSE)
    assert same(cs231n.dump(layer, params), p)
    assert not params["bias_hh_l0"].any()


CS231N: list[tuple[dict[str, Any], str]] = [
    ({"b": None}, "net: a recurrent layer lacks b"),
    ({"b": np.zeros(4 * H + 1)}, r"net.b has shape \(45,\); expected \(44,\)"),
    ({"Wx": np.zeros((I, 3 * H))}, r"net.Wx has shape \(5, 33\); expected \(any, 44\)"),
    ({"Wh": np.zeros((H, 3 * H))}, r"net.Wh has shape \(11, 33\); expected \(H, H\)"),
    ({"Wh": np.zeros(H)}, r"net.Wh has shape \(11,\)"),
    ({"Wh": np.zeros((0, 0))}, "net"),
    ({"b": np.zeros(4 * H, "float32")}, "net: arrays of different dtypes"),
    ({"b": np.full(4 * H, np.nan)}, "net.b"),
    ({"Wattn": np.zeros((H, 4 * H))}, "net.Wattn: an LSTM with attention"),
    ({"Wx": None}, "no recurrent layer"),
]


@pytest.mark.parametrize(("change", "words"), CS231N, ids=[words[:30] for _, words in CS231N])
def test_a_broken_dict_of_cs231ns_is_refused(change, words):
    p = {"Wx": np.zeros((I, 4 * H)), "Wh": np.zeros((H, 4 * H)), "b": np.zeros(4 * H)}
    with pytest.raises(ValueError, match=words):
        cs231n.load({"net": {**p, **change}})


# ---- the textbook ----------------------------------------------------------------------------------------------------


def textbook_steps(p: dict, x: np.ndarray, a: np.ndarray, c: np.ndarray | None) -> tuple:
    """Over time, x (T, n_x, m): the course's equations; its update gate u admits the new."""
    y = []
    for x_t in x:
        both = np.concatenate([a, x_t])
        if "Wax" in p:
            a = np.tanh(p["Wax"] @ x_t + p["Waa"] @ a + p["ba"])
        elif "Wf" in p:
            f, i, o = (sigmoid(p[f"W{gate}"] @ both + p[f"b{gate}"]) for gate in "fio")
            c = f * c + i * np.tanh(p["Wc"] @ both + p["bc"])
            a = o * np.tanh(c)
        else:
            u, r = (sigmoid(p[f"W{gate}"] @ both + p[f"b{gate}"]) for gate in "ur")
            a = u * np.tanh(p["Wc"] @ np.concatenate([r * a, x_t]) + p["bc"]) + (1 - u) * a
        y.append(a)
    return np.stack(y), {"h": a, "c": c}


TEXTBOOK = {
    pr.RNN(I, H): {"Wax": (H, I), "Waa": (H, H), "ba": (H, 1)},
    pr.LSTM(I, H): {f"W{gate}": (H, H + I) for gate in "fico"} | {f"b{gate}": (H, 1) for gate in "fico"},
    pr.GRU(I, H, reset_after=False): {f"W{gate}": (H, H + I) for gate in "urc"}
    | {f"b{gate}": (H, 1) for gate in "urc"},
}


@pytest.mark.parametrize("layer", TEXTBOOK, ids=lambda layer: type(layer).__name__)
def test_the_textbooks_dicts(layer, rng):
    p = {name: 0.4 * rng.standard_normal(shape) for name, shape in TEXTBOOK[layer].items()}
    Wy = "Wya" if type(layer) is pr.RNN else "Wy"
    full = p | {Wy: rng.standard_normal((2, H)), "by": rng.standard_normal((2, 1))}
    found, params = textbook.load({"net": full})
    assert found == layer
    assert not params["bias_hh_l0"].any()
    x, state = rng.standard_normal((T, N, I)), states(layer, rng)
    given = {part: array[0].T for part, array in parts(state).items()}
    y, end = textbook_steps(p, x.transpose(0, 2, 1), given["h"], given.get("c"))
    mine = layer(params, x, state)
    agree(mine, (y.transpose(0, 2, 1), {part: end[part].T for part in given}), CLOSE)
    assert same(textbook.dump(layer, params), p)

    forward = getattr(pr, f"{type(layer).__name__.lower()}_forward")
    dumped = textbook.dump(layer, params) | {Wy: full[Wy], "by": full["by"]}
    a = forward(x.transpose(2, 1, 0), given["h"], dumped, **({"c0": given["c"]} if "c" in given else {}))[0]
    np.testing.assert_allclose(a.transpose(2, 1, 0), mine[0], **CLOSE)


BROKEN_TEXTBOOK: list[tuple[str, dict[str, Any], str]] = [
    ("LSTM", {"bo": None}, "net: the parameters of a layer .lstm. lacks bo"),
    ("LSTM", {"Wx": np.zeros((H, 3))}, "net: the parameters of a layer .lstm. has Wx beside"),
    ("LSTM", {"Wf": np.zeros((H, H))}, r"net.Wf has shape \(11, 11\); expected \(11, 16\)"),
    ("LSTM", {"Wi": np.zeros((H, H))}, r"net.Wi has shape \(11, 11\); expected \(n_a, n_a \+ n_x\)"),
    ("LSTM", {"bc": np.zeros(H)}, r"net.bc has shape \(11,\); expected \(11, 1\)"),
    ("LSTM", {"bc": np.zeros((H, 1), "float32")}, "net: arrays of different dtypes"),
    ("GRU", {"bu": None}, "net: the parameters of a layer .gru. lacks bu"),
    ("GRU", {"Wu": np.full((H, H + I), np.nan)}, "net.Wu"),
    ("RNN", {"ba": None}, "net: the parameters of a layer .rnn. lacks ba"),
    ("RNN", {"Waa": np.zeros((H, H + 1))}, r"net.Waa has shape \(11, 12\)"),
    ("RNN", {"Wax": "text"}, "net.Wax is str"),
]


@pytest.mark.parametrize(
    ("kind", "change", "words"), BROKEN_TEXTBOOK, ids=[words[:40] for *_, words in BROKEN_TEXTBOOK]
)
def test_a_broken_dict_of_the_textbooks_is_refused(kind, change, words):
    shapes = next(shapes for layer, shapes in TEXTBOOK.items() if type(layer).__name__ == kind)
    p = {name: np.zeros(shape) for name, shape in shapes.items()}
    with pytest.raises(ValueError, match=words):
        textbook.load({"net": {**p, **change}})


# ---- of all ----------------------------------------------------------------------------------------------------------

DUMPS = {"equinox": equinox.dump, "cs231n": cs231n.dump, "textbook": textbook.dump, "cudnn": cudnn.dump}
BACK = {"equinox": equinox, "cs231n": cs231n, "textbook": textbook}
CAN = {  # what each takes, with everything that PyTorch's names allow
    "equinox": [pr.LSTM(I, H, 2, bidirectional=True), pr.GRU(I, H, 3), pr.LSTM(I, H, bias=False)],
    "cs231n": [pr.LSTM(I, H, 2, bidirectional=True), pr.RNN(I, H, 3), pr.LSTM(I, H, bias=False)],
    "textbook": [pr.LSTM(I, H, 2, bidirectional=True), pr.RNN(I, H, 3), pr.GRU(I, H, 2, bias=False, reset_after=False)],
}


@pytest.mark.parametrize(("target", "layer"), [(t, layer) for t, layers in CAN.items() for layer in layers])
def test_our_layers_come_back_with_the_same_outputs(target, layer, rng):
    params, module = drawn(layer, rng), BACK[target]
    tree = module.dump(layer, params)
    back, again = module.join(module.find(tree).values(), layer.bidirectional)
    assert replace(back, bias=layer.bias) == layer
    x, state = rng.standard_normal((T, N, I)), states(layer, rng)
    y, end = layer(params, x, state)
    agree(back(again, x, state), (y, parts(end)), CLOSE)
    if type(layer) is not pr.GRU:
        assert not any(array.any() for name, array in again.items() if name.startswith("bias_hh"))


ALL = ("equinox", "cs231n", "textbook", "cudnn")
REFUSED: list[tuple[tuple[str, ...], Any, str]] = [
    (("equinox", "cudnn"), pr.GRU(I, H, reset_after=False), "reset_after=False"),
    (("textbook",), pr.GRU(I, H), "reset_after=True, and the textbook's resets before"),
    (("cs231n",), pr.GRU(I, H), "GRU: CS231n has none"),
    (("equinox",), pr.RNN(I, H), "RNN: Equinox has no simple"),
    (("equinox", "cs231n", "textbook"), pr.LSTM(I, H, proj_size=2), "proj_size=2"),
    (ALL, pr.LSTM(I, H, peephole=True), "peephole=True"),
    (ALL, pr.LSTM(I, H, coupled=True), "coupled=True"),
    (ALL, pr.LSTM(I, H, layer_norm=True), "layer_norm=True"),
    (ALL, pr.LSTM(I, H, clip=1.0), "clip=1.0"),
    (ALL, pr.LSTM(I, H, activations=("tanh",) * 5), "activations="),
    (ALL, pr.LSTM(I, H, learned_state=True), "learned_state=True"),
    (ALL, pr.LSTM(I, H, zoneout_h=0.1), "zoneout_h=0.1"),
    (ALL, pr.LSTM(I, H, ensemble=2), "ensemble=2"),
    (("cs231n", "textbook"), pr.RNN(I, H, nonlinearity="relu"), "nonlinearity='relu'"),
    (("cudnn",), pr.RNN(I, H, nonlinearity="elu"), "nonlinearity='elu'; cuDNN has"),
]


@pytest.mark.parametrize(
    ("target", "layer", "words"), [(target, layer, words) for targets, layer, words in REFUSED for target in targets]
)
def test_what_they_cannot_represent_is_refused(target, layer, words):
    with pytest.raises(ValueError, match=words):
        DUMPS[target](layer, layer.init(seed=0))


def test_of_what_there_is_no_flat_vector():
    for layer, words in ((pr.GRU(I, H), "has an LSTM only"), (pr.LSTM(I, H, proj_size=2), "proj_size=2"),
                         (pr.LSTM(I, H, bias=False), "bias=False")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            cudnn.dump_flat(layer, layer.init(seed=0))
        with pytest.raises(ValueError, match=words):
            cudnn.load_flat(layer, np.zeros(3))


@pytest.mark.parametrize("target", ALL)
def test_dump_checks_its_arguments(target):
    layer = pr.LSTM(I, H)
    with pytest.raises(TypeError, match="expected an RNN, LSTM or GRU"):
        DUMPS[target]("lstm", {})
    with pytest.raises(ValueError, match="params have the shapes"):
        DUMPS[target](layer, pr.LSTM(I, H + 1).init(seed=0))
    params = layer.init(seed=0)
    params["weight_hh_l0"][2, 3] = np.nan
    with pytest.raises(ValueError, match=r"weight_hh_l0.*\(2, 3\)"):
        DUMPS[target](layer, params)
    tree = DUMPS[target](layer, params, allow_nan=True)
    load = cudnn.load if target == "cudnn" else BACK[target].load
    with pytest.raises(ValueError, match="nan"):
        load(tree)
    assert np.isnan(load(tree, allow_nan=True).params["weight_hh_l0"][2, 3])


@pytest.mark.parametrize("target", BACK)
def test_what_is_no_tree_is_refused(target):
    for source in (3, None, np.zeros(3)):
        with pytest.raises(TypeError, match="expected nested dicts"):
            BACK[target].find(source)
    assert BACK[target].find({"W": np.zeros(3)}) == {}
    with pytest.raises(ValueError, match="no recurrent layer"):
        BACK[target].load({"W": np.zeros(3)})
