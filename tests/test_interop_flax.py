"""Flax' cells in and out: the stored results of linen and nnx, and where Flax is installed the cells themselves."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

import polyrnn as pr
from polyrnn.interop import flax

with safe_open(Path(__file__).parent / "stored" / "flax.safetensors", "np") as file:
    STORED = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    CASES: dict[str, dict[str, str]] = json.loads(file.metadata()["about"])["cases"]
NEAR = {"rtol": 0, "atol": 1e-6}  # the largest error measured is 3.3e-7, of numbers up to 2.5
LAYERS = {"LSTMCell": pr.LSTM, "OptimizedLSTMCell": pr.LSTM, "GRUCell": pr.GRU, "SimpleCell": pr.RNN}
I, H = 5, 11


def tree_of(case: str) -> dict[str, Any]:
    """Nested dicts again."""
    tree: dict[str, Any] = {}
    for key, array in STORED.items():
        if key.startswith(f"{case}/tree/"):
            *path, last = key.removeprefix(f"{case}/tree/").split("/")
            node = tree
            for name in path:
                node = node.setdefault(name, {})
            node[last] = array
    assert tree
    return tree


def functions_of(case: str) -> dict[str, Any]:
    """What a live cell with these functions of JAX' would be taken for."""
    return {key: flax._FUNCTIONS[name] for key, name in CASES.get(case, {}).items()}


def same(one: Any, other: Any) -> bool:
    """Whether two trees have the same keys, and arrays of the same dtype and numbers."""
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return one.dtype == other.dtype and np.array_equal(one, other)


def check(case: str, layer: Any, params: dict[str, np.ndarray]) -> None:
    """The layer gives what Flax gave."""
    x, h = STORED[f"{case}/x"], STORED[f"{case}/h"]
    state = tuple(
        STORED[f"{case}/{part}"].reshape(-1, *h.shape[-2:]) for part in ("h", "c") if f"{case}/{part}" in STORED
    )
    assert {array.dtype for array in params.values()} == {np.dtype("float32")}
    y, end = layer(params, x, state if len(state) > 1 else state[0])
    np.testing.assert_allclose(y, STORED[f"{case}/y"], **NEAR)
    for part, array in zip(("h", "c"), end if len(state) > 1 else (end,), strict=False):
        stored = STORED[f"{case}/end/{part}"]
        np.testing.assert_allclose(array.reshape(stored.shape), stored, **NEAR)


@pytest.mark.parametrize("case", CASES)
def test_a_cell_gives_what_flax_gave(case):
    api, cell = case.split("/")[:2]
    tree, options = tree_of(case), functions_of(case)
    layer, params = flax.load(tree, **options)
    assert type(layer) is LAYERS[cell]
    check(case, layer, params)
    assert same(flax.dump(layer, params, api=api, cell=cell, **options), tree)
    if case != "linen/GRUCell" and "linen/GRUCell/" not in case:
        assert not params["bias_hh_l0"].any()


@pytest.mark.parametrize(
    ("case", "cell", "bidirectional"), [("linen/stack", "GRUCell", False), ("nnx/bidirectional", "LSTMCell", True)]
)
def test_cells_are_joined(case, cell, bidirectional):
    found = flax.find({"params": tree_of(case)} if case == "linen/stack" else tree_of(case))
    names = {"linen/stack": ["GRUCell_0", "GRUCell_1"], "nnx/bidirectional": ["forward_rnn.cell", "backward_rnn.cell"]}
    cells = [found[name] for name in names[case]]
    assert len(found) == 2
    layer, params = flax.join(cells, bidirectional)
    assert (layer.num_layers, layer.bidirectional) == ((1, True) if bidirectional else (2, False))
    check(case, layer, params)
    trees = flax.dump(layer, params, api=case.split("/")[0], cell=cell)
    assert list(trees) == (["l0", "l0_reverse"] if bidirectional else ["l0", "l1"])
    again = flax.join(flax.find(trees).values(), bidirectional)
    assert again.layer == layer
    assert same(again.params, params)


def test_what_cannot_be_joined():
    gru, lstm = (flax.load(tree_of(f"nnx/{cell}")) for cell in ("GRUCell", "OptimizedLSTMCell"))
    deep = pr.GRU(I, H, num_layers=2)
    bad: list[tuple[list, bool, str]] = [
        ([], False, "0 recurrences"),
        ([gru], True, "1 recurrences do not make layers of 2 directions"),
        ([gru, lstm], False, "expected one GRU"),
        ([gru, gru], False, "params have the shapes"),
        ([gru, flax.Converted(deep, deep.init(seed=0))], False, "of one recurrence"),
        ([gru, flax.Converted(replace(gru.layer, bias=False), gru.params)], False, "the options of"),
    ]
    for cells, bidirectional, words in bad:
        with pytest.raises(ValueError, match=words):
            flax.join(cells, bidirectional)


FORMS = [f"{api}/{cell}" for api in ("linen", "nnx") for cell in LAYERS]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stack", [{}, {"num_layers": 3}, {"num_layers": 2, "bidirectional": True}])
def test_our_layers_come_back_with_the_same_outputs(form, bias, stack, rng):
    api, cell = form.split("/")
    layer = LAYERS[cell](I, H, bias=bias, **stack)
    params = {name: rng.standard_normal(shape) for name, shape in layer.shapes().items()}
    if form == "nnx/GRUCell" and bias:
        for name in params:
            if name.startswith("bias_hh"):
                params[name][2 * H :] = 0
    tree = flax.dump(layer, params, api=api, cell=cell)
    back, again = flax.join(flax.find(tree).values(), layer.bidirectional)
    assert replace(back, bias=bias) == layer
    x = rng.standard_normal((7, 3, I))
    np.testing.assert_allclose(back(again, x)[0], layer(params, x)[0], rtol=0, atol=1e-13)
    single = {name: array for name, array in again.items() if name.startswith("bias_hh") and form != "linen/GRUCell"}
    assert not any(array.any() for array in single.values())


# ---- what is found, and where ----------------------------------------------------------------------------------------


def test_cells_are_found_anywhere_and_named_by_their_paths():
    kernel, bias = np.ones((4, 4), "float32"), np.ones(4, "float32")
    mgu = {"if": {"kernel": kernel, "bias": bias}, "in": {"kernel": kernel, "bias": bias}}
    mgu |= {"hf": {"kernel": kernel}, "hn": {"kernel": kernel, "bias": bias}}
    tree = {
        "params": {
            "encoder": {"cell": tree_of("linen/LSTMCell"), "Dense_0": {"kernel": kernel, "bias": bias}},
            "cells": [tree_of("nnx/GRUCell"), {"deep": {3: tree_of("nnx/SimpleCell")}}],
            "MGUCell_0": mgu,
            "alpha": np.float32(1),
        },
        "batch_stats": {"cell": tree_of("linen/LSTMCell")},
    }
    found = flax.find(tree)
    assert {name: type(one.layer) for name, one in found.items()} == {
        "encoder.cell": pr.LSTM,
        "cells.0": pr.GRU,
        "cells.1.deep.3": pr.RNN,
    }
    assert same(flax.load(tree, "cells.0").params, found["cells.0"].params)
    for name in (None, "MGUCell_0"):
        with pytest.raises(ValueError, match=r"'encoder.cell', 'cells.0', 'cells.1.deep.3'"):
            flax.load(tree, name)
    assert list(flax.find(tree_of("nnx/GRUCell"))) == [""]
    assert flax.find({"head": {"kernel": kernel}}) == {}
    with pytest.raises(ValueError, match="no recurrent layer"):
        flax.load({"head": {"kernel": kernel}})


def test_a_tree_that_holds_itself_ends():
    tree: dict[str, Any] = {"cell": tree_of("nnx/GRUCell")}
    tree["again"] = {"tree": tree}
    assert list(flax.find(tree)) == ["cell"]


def test_a_broken_cell_does_not_hide_the_others():
    tree = {"good": tree_of("nnx/GRUCell"), "bad": tree_of("linen/LSTMCell")}
    del tree["bad"]["hf"]
    assert flax.load(tree, "good").layer.hidden_size == H
    with pytest.raises(ValueError, match=r"^bad: a recurrent cell lacks hf"):
        flax.find(tree)


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, "float32")


BROKEN: list[tuple[str, str, Any, str]] = [  # a form, a path, what to put there (None: nothing), what is said
    ("linen/LSTMCell", "ii", None, "net.rnn: a recurrent cell lacks ii"),
    ("linen/LSTMCell", "extra", zeros(3), "net.rnn: a recurrent cell has extra beside"),
    ("linen/LSTMCell", "ii.bias", zeros(H), "net.rnn.ii: part of a cell .lstm. has bias beside"),
    ("linen/LSTMCell", "hf.bias", None, "net.rnn.hf: part of a cell .lstm. lacks bias"),
    ("linen/LSTMCell", "hf.kernel", None, "net.rnn.hf: part of a cell .lstm. lacks kernel"),
    ("linen/LSTMCell", "hf.kernel", zeros(H, H + 1), r"net.rnn.hf.kernel has shape \(11, 12\); expected \(11, 11\)"),
    ("linen/LSTMCell", "ig.kernel", zeros(I + 2, H), r"net.rnn.ig.kernel has shape \(7, 11\); expected \(5, 11\)"),
    ("linen/LSTMCell", "hi.kernel", zeros(H), r"net.rnn.hi.kernel has shape \(11,\)"),
    ("linen/LSTMCell", "hi.kernel", zeros(2, H, H), r"net.rnn.hi.kernel has shape \(2, 11, 11\)"),  # nn.vmap's
    ("linen/LSTMCell", "hg.bias", zeros(H - 1), r"net.rnn.hg.bias has shape \(10,\); expected \(11,\)"),
    ("linen/LSTMCell", "hg.bias", np.zeros(H), "net.rnn: arrays of different dtypes, .*hg.bias float64"),
    ("linen/LSTMCell", "hg.bias", np.zeros(H, "int32"), "net.rnn.hg.bias is ndarray of int32"),
    ("linen/LSTMCell", "hg.bias", [[1.0], [2.0, 3.0]], "net.rnn.hg.bias is list, which makes no array"),
    ("linen/LSTMCell", "hg.bias", "text", "net.rnn.hg.bias is str"),
    ("linen/GRUCell", "hn.bias", None, "net.rnn.hn: part of a cell .gru. lacks bias"),
    ("linen/GRUCell", "hr.bias", zeros(H), "net.rnn.hr: part of a cell .gru. has bias beside"),
    ("linen/SimpleCell", "i.bias", None, "net.rnn.i: part of a cell .rnn. lacks bias"),
    ("nnx/LSTMCell", "if_", None, "net.rnn: a recurrent cell lacks if_?;"),
    ("nnx/OptimizedLSTMCell", "dense_h.bias", None, "net.rnn.dense_h: part of a cell .lstm. lacks bias"),
    ("nnx/OptimizedLSTMCell", "dense_h.kernel", None, "net.rnn.dense_h: part of a cell .lstm. lacks kernel"),
    ("nnx/OptimizedLSTMCell", "dense_h.kernel", zeros(H, 2 * H), r"net.rnn.dense_h.kernel has shape \(11, 22\); expec"),
    ("nnx/OptimizedLSTMCell", "dense_h.kernel", zeros(0, 0), "net.rnn"),
    ("nnx/OptimizedLSTMCell", "dense_h", zeros(3), "no recurrent layer"),
    ("nnx/GRUCell", "dense_h.bias", zeros(3 * H), "net.rnn.dense_h: part of a cell .gru. has bias beside"),
    (
        "nnx/GRUCell",
        "dense_i.kernel",
        zeros(I, 4 * H),
        r"net.rnn.dense_i.kernel has shape \(5, 44\); expected \(any, 33",
    ),
    ("nnx/SimpleCell", "dense_i.kernel", zeros(0, H), "input_size=0"),
]


@pytest.mark.parametrize(
    ("form", "where", "what", "words"), BROKEN, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_broken_tree_is_refused(form, where, what, words):
    tree = tree_of(form)
    node = tree
    *path, last = where.split(".")
    for name in path:
        node = node[name]
    if what is None:
        del node[last]
    else:
        node[last] = what
    with pytest.raises(ValueError, match=words):
        flax.load({"net": {"rnn": tree}})


@pytest.mark.parametrize("source", [None, 3, "cell", np.zeros(3)])
def test_what_is_no_tree_is_refused(source):
    with pytest.raises(TypeError, match="expected nested dicts of arrays"):
        flax.find(source)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_is_refused_unless_it_is_wanted(value):
    tree = tree_of("nnx/GRUCell")
    tree["dense_h"]["kernel"] = tree["dense_h"]["kernel"].copy()
    tree["dense_h"]["kernel"][2, 3] = value
    for call in (flax.load, flax.find):
        with pytest.raises(ValueError, match=r"net.cell.dense_h.kernel.*\(2, 3\)"):
            call({"net": {"cell": tree}})
    layer, params = flax.load(tree, allow_nan=True)
    with pytest.raises(ValueError, match=r"weight_hh_l0.*\(3, 2\)"):
        flax.dump(layer, params)
    again = flax.dump(layer, params, allow_nan=True)
    np.testing.assert_array_equal(again["dense_h"]["kernel"], tree["dense_h"]["kernel"])
    assert flax.find({"net": tree}, allow_nan=True)["net"].layer == layer


# ---- what Flax cannot represent --------------------------------------------------------------------------------------

REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (pr.GRU(3, 5), {}, r"bias_hn other than 0, up to 0\.\d+.*linen's GRUCell has one"),
    (pr.GRU(3, 5, reset_after=False), {"api": "linen"}, "reset_after=False, which linen.GRUCell cannot represent"),
    (pr.LSTM(3, 5, proj_size=2), {}, "proj_size=2, which nnx.OptimizedLSTMCell"),
    (pr.LSTM(3, 5, peephole=True), {}, "peephole=True"),
    (pr.LSTM(3, 5, coupled=True), {}, "coupled=True"),
    (pr.LSTM(3, 5, layer_norm=True), {}, "layer_norm=True"),
    (pr.LSTM(3, 5, cell_clip=1.0), {}, "cell_clip=1.0"),
    (pr.LSTM(3, 5, zoneout_c=0.1), {}, "zoneout_c=0.1"),
    (pr.RNN(3, 5, clip=1.0), {}, "clip=1.0"),
    (pr.RNN(3, 5, learned_state=True), {}, "learned_state=True"),
    (pr.RNN(3, 5, ensemble=2), {}, "ensemble=2"),
    (pr.RNN(3, 5, nonlinearity="relu"), {}, "has the functions relu, and nnx.SimpleCell with"),
    (pr.RNN(3, 5), {"activation_fn": "relu"}, "has the functions tanh"),
    (pr.LSTM(3, 5, activations=("sigmoid", "relu", "tanh", "sigmoid", "tanh")), {}, "sigmoid, relu, tanh"),
    (pr.LSTM(3, 5), {"gate_fn": "sigmoit"}, "gate_fn='sigmoit'"),
    (pr.LSTM(3, 5), {"cell": "GRUCell"}, "expected one for LSTM of linen LSTMCell, linen OptimizedLSTMCell, nnx"),
    (pr.LSTM(3, 5), {"api": "haiku"}, "api='haiku'"),
]


@pytest.mark.parametrize(("layer", "options", "words"), REFUSED, ids=[words[:20] for _, _, words in REFUSED])
def test_what_flax_cannot_represent_is_refused(layer, options, words):
    with pytest.raises(ValueError, match=words):
        flax.dump(layer, layer.init(seed=0), **options)


def test_dump_checks_its_arguments():
    gru = pr.GRU(3, 5)
    with pytest.raises(TypeError, match="expected an RNN, LSTM or GRU"):
        flax.dump("gru", {})
    with pytest.raises(ValueError, match="params have the shapes"):
        flax.dump(gru, pr.GRU(3, 7).init(seed=0), api="linen")


def test_the_usual_functions_may_be_written_out():
    lstm = pr.LSTM(3, 5, activations=("sigmoid", "sigmoid", "tanh", "sigmoid", "tanh"))
    params = lstm.init(seed=0)
    assert flax.load(flax.dump(lstm, params)).layer == pr.LSTM(3, 5)


def test_arrays_are_the_callers_own():
    tree = tree_of("nnx/OptimizedLSTMCell")
    layer, params = flax.load(tree)
    for array in params.values():
        array[:] = 0
    assert same(tree, tree_of("nnx/OptimizedLSTMCell"))
    layer, params = flax.load(tree)
    dumped = flax.dump(layer, params)
    for part in dumped.values():
        for array in part.values():
            array[:] = 0
    assert same(params, flax.load(tree).params)


def test_dtypes():
    stored = tree_of("nnx/GRUCell")
    for dtype, becomes in (("float16", "float16"), ("float64", "float64"), (">f4", "float32")):
        tree = {part: {leaf: a.astype(dtype) for leaf, a in leaves.items()} for part, leaves in stored.items()}
        _, params = flax.load(tree)
        assert {str(array.dtype) for array in params.values()} == {becomes}


def test_bfloat16_becomes_float32_exactly():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    stored = tree_of("nnx/GRUCell")
    tree = {part: {leaf: a.astype(ml_dtypes.bfloat16) for leaf, a in own.items()} for part, own in stored.items()}
    layer, params = flax.load(tree)
    dumped = flax.dump(layer, params)
    for part, own in tree.items():
        for leaf, array in own.items():
            assert dumped[part][leaf].dtype == np.float32
            assert (dumped[part][leaf].astype(ml_dtypes.bfloat16) == array).all()


# ---- with Flax -------------------------------------------------------------------------------------------------------


@pytest.fixture
def jax(monkeypatch):
    """JAX with its own promotion: Flax' modules mix weak types."""
    pytest.importorskip("flax")
    jax = pytest.importorskip("jax")
    with jax.numpy_dtype_promotion("standard"):
        yield jax


@pytest.mark.parametrize("form", FORMS)
def test_flax_takes_what_dump_makes(jax, form, rng):
    import flax.linen as nn
    from flax import nnx

    api, cell = form.split("/")
    layer = LAYERS[cell](I, H)
    params = {name: np.float32(0.4 * rng.standard_normal(shape)) for name, shape in layer.shapes().items()}
    if form == "nnx/GRUCell":
        params["bias_hh_l0"][2 * H :] = 0
    tree = flax.dump(layer, params, api=api, cell=cell)
    x = np.float32(rng.standard_normal((7, 3, I)))
    h, c = np.float32(rng.standard_normal((2, 1, 3, H)))
    carry = (c[0], h[0]) if layer.cell.states == ("h", "c") else h[0]
    if api == "nnx":
        theirs = getattr(nnx, cell)(I, H, rngs=nnx.Rngs(0))
        before = theirs
        nnx.update(theirs, tree)
        carry, y = nnx.RNN(theirs, time_major=True, return_carry=True)(x, initial_carry=carry)
        for source in (theirs, {"a": nnx.RNN(before)}, nnx.state(theirs), nnx.to_pure_dict(nnx.state(theirs))):
            found = flax.load(source)
            assert found.layer == layer
            assert same(flax.dump(*found, api=api, cell=cell), tree)
    else:
        rnn = nn.RNN(getattr(nn, cell)(H), time_major=True, return_carry=True)
        wanted = jax.tree.map(np.shape, rnn.init(jax.random.key(0), x)["params"]["cell"])
        assert jax.tree.map(np.shape, tree) == wanted
        carry, y = rnn.apply({"params": {"cell": tree}}, x, initial_carry=carry)
    ours, end = layer(params, x, (h, c) if isinstance(carry, tuple) else h)
    np.testing.assert_allclose(ours, y, **NEAR)
    for mine, its in zip(end, carry[::-1], strict=True) if isinstance(carry, tuple) else [(end, carry)]:
        np.testing.assert_allclose(mine[0], its, **NEAR)


def test_a_live_module_tells_its_functions(jax):
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, cell: Any):
            self.rnn = nnx.RNN(cell)
            self.head = nnx.Linear(H, 2, rngs=nnx.Rngs(1))

    def net(kind: Any, **options: Any) -> Net:
        return Net(kind(I, H, rngs=nnx.Rngs(0), **options))

    both = {"gate_fn": jax.nn.hard_sigmoid, "activation_fn": jax.nn.soft_sign}
    gate, new = ("hard_sigmoid", 1 / 6, 0.5), "softsign"
    assert flax.load(net(nnx.GRUCell, **both)).layer.activations == (gate, gate, new)
    assert flax.find(net(nnx.LSTMCell, **both))["rnn.cell"].layer.activations == (gate, gate, new, gate, new)
    assert flax.load(net(nnx.SimpleCell, activation_fn=jax.nn.relu)).layer.nonlinearity == "relu"
    assert (
        flax.load(net(nnx.SimpleCell, activation_fn=jax.nn.relu), activation_fn="softsign").layer.nonlinearity
        == "softsign"
    )
    for dtype in (np.float32, np.dtype("float32"), jax.numpy.float32):
        assert flax.load(net(nnx.GRUCell, dtype=dtype, param_dtype=dtype)).layer == pr.GRU(I, H)

    def tanh(x: Any) -> Any:
        return 2 * x

    for function in (tanh, jax.nn.gelu, lambda x: x):
        with pytest.raises(ValueError, match=r"rnn\.cell\.activation_fn is"):
            flax.load(net(nnx.GRUCell, activation_fn=function))
    with pytest.raises(ValueError, match=r"rnn\.cell has residual=True"):
        flax.load(net(nnx.SimpleCell, residual=True))


def test_live_modules_in_lists_and_half_precision(jax):
    from flax import nnx

    normal = nnx.initializers.normal()
    cells = nnx.List(
        [
            nnx.GRUCell(I, H, rngs=nnx.Rngs(0), param_dtype=jax.numpy.bfloat16, recurrent_kernel_init=normal),
            nnx.Linear(2, 3, rngs=nnx.Rngs(0)),
        ]
    )
    found = flax.find(nnx.Sequential(cells))
    assert [name.split(".")[-1] for name in found] == ["0"]
    ((layer, params),) = found.values()
    assert layer == pr.GRU(I, H)
    assert params["weight_ih_l0"].dtype == np.float32
    np.testing.assert_array_equal(params["weight_hh_l0"].T, np.asarray(cells[0].dense_h.kernel).astype("float32"))


def test_what_is_traced_is_refused(jax):
    tree = tree_of("nnx/GRUCell")
    with pytest.raises(ValueError, match=r"dense_\w.kernel is \w*Tracer, which makes no array"):
        jax.jit(lambda tree: flax.load(tree).params)(tree)
