"""The variants of the cells, each part alone and all together, on every subject.

Their proof is the oracle's loops, transcribed from the papers and from ONNX' specification, with derivatives by complex
steps through these loops; ONNX Runtime's stored results; and those of layers built of PyTorch's own parts, by autograd.
"""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import variants
from cases import packed, unpacked
from oracle import variant_loops
from oracle.stored import FILE
from safetensors import safe_open
from subjects import Subject, near, vary

import polyrnn as pr
from polyrnn.testing import unchanged

JAX = ("gru_all", "all_coupled", "coupled_activations", "rnn_clip_relu")  # a second or two each to compile
KERNELS = ("peephole", "gru_clip", "rnn_clip")  # there is none for a variant: one each shows that it declines


def some(subject: Subject, name: str) -> bool:
    if subject.kernel is not None:
        return name in KERNELS
    if "jit" in subject.tags:
        return name in JAX[:2]
    return name in JAX if "compiles" in subject.tags else True


@vary(some, name=variants.NAMED)
def test_results_and_gradients(subject, name):
    check(subject, name, "float64")


@pytest.mark.parametrize("name", range(variants.COUNT))
def test_random_configurations(name):
    check(Subject("numpy", "numpy"), name, "float64")


@vary(lambda subject, name: "compiles" not in subject.tags and not subject.kernel, name=variants.NAMED)
def test_results_and_gradients_in_float32(subject, name):
    check(subject, name, "float32")


def everything(layer: Any, lengths: Any, params: Any, x: Any, state: Any, masks: Any, dy: Any, dstate: Any) -> Any:
    y, end, tape = layer.forward(params, x, state, lengths=lengths, masks=masks)
    return layer(params, x, state, lengths=lengths, masks=masks), (y, end), layer.backward(tape, dy, dstate)


def check(subject: Subject, name: str | int, dtype: str) -> None:
    v, proof = variants.get(name), variants.proof(name)
    layer = v.layer(pr)
    host = (v.params, v.x, packed(v.state), v.masks, v.dy, packed(v.dstate))
    arguments = tuple(subject.array(a, dtype if k != 3 else None) for k, a in enumerate(host))
    with unchanged(arguments):
        run = subject.function(lambda *a: everything(layer, v.lengths, *a))
        called, (y, end), grads = run(*arguments)
    prefix = "normalised " if v.normalised else ""
    for found in (called, (y, end)):
        subject.close(found[0], proof.y, prefix + "forward", dtype, "y")
        subject.close(found[1], packed(proof.ends), prefix + "forward", dtype, "state")
    assert set(grads.params) == set(v.params)
    own = {**grads.params, "x": grads.x} | {f"state.{m}": part for m, part in enumerate(unpacked(grads.state))}
    for key, gradient in own.items():
        subject.formed(gradient, dtype, v.point[key].shape)
    own = subject.host(own)
    for key, along, slope in proof.slopes:  # relative to the gradient, of which they may be a small rest
        gradient = np.float64(own[key])
        scale = max(1.0, np.abs(gradient).max())
        near(np.sum(gradient * along) / scale, slope / scale, prefix + "gradient", key, dtype)
    assert len(proof.slopes) == len(own)
    if v.lengths is not None:
        past = np.arange(len(v.x))[:, None] >= np.asarray(v.lengths)
        assert not subject.host(y)[past].any() and not own["x"][past].any()


def test_the_named_ones_bite():
    """Each limit is met by some arguments and not by all, and no derivative is lost in zeros."""
    for name in variants.NAMED:
        v, proof = variants.get(name), variants.proof(name)
        assert len(set(variants.SIZES)) == len(variants.SIZES)
        assert sum(abs(slope) > 1e-3 for *_, slope in proof.slopes) >= 0.8 * len(proof.slopes), name
        for option in ("clip", "cell_clip"):
            if option in v.options:
                wide = replace(v, options=v.options | {option: None})
                assert np.abs(wide.run(wide.point)[0] - proof.y).max() > 1e-3, (name, option)
    found = [variants.configuration(k) for k in range(variants.COUNT)]
    for option in ("peephole", "coupled", "layer_norm", "reset_after", "bidirectional", "bias", "proj_size"):
        assert len({options[option] for _, options in found if option in options}) == 2, option
    for option in ("clip", "cell_clip", "activations"):
        given = [options[option] is not None for _, options in found if option in options]
        assert 0.2 < np.mean(given) < 0.8, option


@pytest.mark.parametrize("name", variants.NAMED)
def test_what_is_analytic_has_no_bend(name):
    """Only then may gradcheck run the cell on complex numbers."""
    v = variants.get(name)
    options = [v.options.get(option) for option in ("clip", "cell_clip")]
    functions = v.options.get("activations") or (v.options.get("nonlinearity", "tanh"),)
    smooth = all((f if isinstance(f, str) else f[0]) in ("sigmoid", "tanh", "affine", "scaled_tanh") for f in functions)
    assert v.layer(pr).cell.analytic == (smooth and options == [None, None])


def no_steps(subject: Subject, name: str, sizes: tuple[int, int]) -> bool:
    return not (subject.kernel or "compiles" in subject.tags)


@vary(no_steps, name=variants.NAMED, sizes=[(0, 3), (5, 0), (0, 0)])
def test_no_steps_and_no_examples(subject, name, sizes):
    v = variants.get(name)
    layer, (steps, batch) = v.layer(pr), sizes
    x, dy = v.x[:steps, :batch], v.dy[:steps, :batch]
    state, dstate = (packed(tuple(part[:, :batch].copy() for part in s)) for s in (v.state, v.dstate))
    params, above = subject.array(v.params), subject.array((dy, dstate))
    y, end, tape = layer.forward(params, subject.array(x), subject.array(state))
    grads = layer.backward(tape, *above)
    subject.equal((y, end), (np.zeros_like(dy), state), "float64")
    subject.equal((grads.x, grads.state), (np.zeros_like(x), dstate), "float64")
    subject.equal(grads.params, {key: np.zeros_like(value) for key, value in v.params.items()}, "float64")


@pytest.mark.parametrize("name", variants.NAMED)
def test_steps_are_the_sequence(name):
    v = variants.get(name)
    if v.options.get("bidirectional"):
        return
    layer, state = v.layer(pr), packed(v.state)
    whole, end = layer(v.params, v.x, packed(v.state))
    for t in range(len(v.x)):
        y, state = layer.step(v.params, v.x[t], state)
        near(y, whole[t], "same")
    for part, expected in zip(unpacked(state), unpacked(end), strict=True):
        near(part, expected, "same")


@pytest.mark.parametrize("name", ["dropout", "gru_layer_norm_before", "rnn_scaled_tanh"])
def test_every_element_of_every_gradient(name):
    v = variants.get(name)
    layer = v.layer(pr)
    *_, tape = layer.forward(v.params, v.x, packed(v.state), lengths=v.lengths, masks=v.masks)
    grads = layer.backward(tape, v.dy, packed(v.dstate))
    own = {**grads.params, "x": grads.x} | {f"state.{m}": part for m, part in enumerate(unpacked(grads.state))}
    for key, value in v.point.items():
        if key == "weight_hh_l0" or value.ndim == 1 or key.startswith("state"):
            for k in np.ndindex(*value.shape):
                unit = np.zeros(value.shape)
                unit[k] = 1.0
                slope = variant_loops.slope(v.loss, v.point, key, unit)
                near(own[key][k], slope, "normalised gradient" if v.normalised else "gradient", f"{key}{k}")


# ---- ONNX Runtime --------------------------------------------------------------------------------------------------

with safe_open(FILE.with_name("onnx_variants.safetensors"), framework="numpy") as _file:
    ONNX = {key: _file.get_tensor(key) for key in _file.keys()}  # noqa: SIM118
    OPERATORS = json.loads(_file.metadata()["about"])["cases"]

INPUTS = ("X", "W", "R", "B", "P", "initial_h", "initial_c", "sequence_lens", "Y", "Y_h", "Y_c")
BLOCKS = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}  # of i o f c, z r h
NAMES = {"LeakyRelu": "leaky_relu", "ThresholdedRelu": "thresholded_relu", "ScaledTanh": "scaled_tanh"}
NAMES |= {"HardSigmoid": "hard_sigmoid"}
WITH_ALPHA = ("Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu")
WITH_BETA = ("Affine", "ScaledTanh", "HardSigmoid")


def operator(name: str) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """The kind of layer, its options, and the arrays in float64."""
    kind, attributes = OPERATORS[name]
    a = {key: ONNX[f"{name}/{key}"] for key in INPUTS if f"{name}/{key}" in ONNX}
    alpha, beta = (iter(attributes.get(f"activation_{which}", ())) for which in ("alpha", "beta"))
    phis = []
    for phi in attributes.get("activations", ()):
        found = [next(alpha, None) if phi in WITH_ALPHA else None, next(beta, None) if phi in WITH_BETA else None]
        phis.append((NAMES.get(phi, phi.lower()), *[constant for constant in found if constant is not None]))
    options = {"clip": attributes.get("clip"), "bias": "B" in a, "bidirectional": len(a["W"]) == 2}
    if kind == "LSTM":
        options |= {"peephole": "P" in a, "coupled": bool(attributes.get("input_forget"))}
        options |= {"activations": tuple(phis[k] for k in (0, 0, 1, 0, 2))} if phis else {}
    elif kind == "GRU":
        options |= {"reset_after": bool(attributes.get("linear_before_reset"))}
        options |= {"activations": tuple(phis[k] for k in (0, 0, 1))} if phis else {}
    else:
        options |= {"nonlinearity": phis[0]} if phis else {}
    return kind, options, {key: np.float64(v) if v.dtype == np.float32 else v for key, v in a.items()}


def parameters(kind: str, a: dict[str, np.ndarray], coupled: bool) -> dict[str, np.ndarray]:
    """The operator's weights by the layer's names; ONNX couples f = 1 - i, so that its i with another sign is our f."""
    found = {}
    for d, tail in enumerate(("_l0", "_l0_reverse")[: len(a["W"])]):
        stacked = {"weight_ih": (a["W"][d], BLOCKS[kind]), "weight_hh": (a["R"][d], BLOCKS[kind])}
        if "B" in a:
            b_ih, b_hh = np.split(a["B"][d], 2)
            stacked |= {"bias_ih": (b_ih, BLOCKS[kind]), "bias_hh": (b_hh, BLOCKS[kind])}
        if "P" in a:
            stacked["weight_peephole"] = a["P"][d], (0, 2, 1)
        for name, (array, order) in stacked.items():
            blocks = np.split(array, len(order))
            blocks = [blocks[k] for k in order]
            found[name + tail] = np.concatenate([-blocks[0], *blocks[2:]] if coupled else blocks)
    return found


@pytest.mark.parametrize("name", OPERATORS)
def test_results_are_those_of_onnx_runtime(name):
    """It computes in float32; here it is done in float64, so that the difference is its rounding."""
    kind, options, a = operator(name)
    params = parameters(kind, a, options.get("coupled", False))
    state = tuple(a[key] for key in ("initial_h", "initial_c") if key in a)
    lengths = a.get("sequence_lens")
    y, end = getattr(pr, kind)(2, 7, **options)(params, a["X"], packed(state), lengths=lengths)
    loops = variant_loops.run(kind, options, params, a["X"], state, lengths)
    expected = np.concatenate([a["Y"][:, d] for d in range(a["Y"].shape[1])], axis=-1)
    for found in ((y, unpacked(end)), loops):
        near(found[0], expected, "forward", "y", "float32")
        for part, last in zip(found[1], (a["Y_h"], *[a["Y_c"] for _ in state[1:]]), strict=True):
            near(part, last, "forward", "state", "float32")


# ---- layers built of PyTorch's own parts -----------------------------------------------------------------------------

with safe_open(FILE.with_name("torch_layer_norm.safetensors"), framework="numpy") as _file:
    TORCH = {key: _file.get_tensor(key) for key in _file.keys()}  # noqa: SIM118
    BUILT = json.loads(_file.metadata()["about"])["options"]


@vary(lambda subject, name: "compiles" not in subject.tags and not subject.kernel, name=BUILT)
def test_layer_normalisation_is_pytorchs(subject, name):
    kind = name.split("/")[0].upper()
    layer = getattr(pr, kind)(2, 7, layer_norm=True, **BUILT[name])
    states = ("h", "c")[: len(layer.cell.states)]
    a = {key: subject.array(TORCH[f"{name}/{key}"]) for key in ("x", "dy", *layer.shapes())}
    state = packed(tuple(subject.array(TORCH[f"{name}/{s}"][None]) for s in states))
    dstate = packed(tuple(subject.array(TORCH[f"{name}/dend/{s}"][None]) for s in states))
    y, end, tape = layer.forward({key: a[key] for key in layer.shapes()}, a["x"], state)
    grads = layer.backward(tape, a["dy"], dstate)
    subject.close(y, TORCH[f"{name}/y"], "normalised forward", "float64", "y")
    for s, part, gradient in zip(states, unpacked(end), unpacked(grads.state), strict=True):
        subject.close(part, TORCH[f"{name}/end/{s}"][None], "normalised forward", "float64", s)
        subject.close(gradient, TORCH[f"{name}/grad/{s}"][None], "normalised gradient", "float64", f"d{s}")
    expected = {key: TORCH[f"{name}/grad/{key}"] for key in layer.shapes()}
    subject.close(grads.params, expected, "normalised gradient", "float64", "grads.params")
    subject.close(grads.x, TORCH[f"{name}/grad/x"], "normalised gradient", "float64", "grads.x")


# ---- bad input -------------------------------------------------------------------------------------------------------

FLAG, LIMIT, WHOLE = "expected True or False", "expected a finite number > 0, or None", "expected a whole number"
RATES = ("dropout", "input_dropout", "recurrent_dropout", "output_dropout", "zoneout_h", "zoneout_c")
TWO = {"num_layers": 2}  # or else `dropout` warns

BAD_OPTIONS: list[tuple[str, dict[str, Any], type[Exception], tuple[str, ...]]] = [
    *[("LSTM", {name: 1}, TypeError, (f"{name}=1", FLAG)) for name in ("peephole", "coupled", "layer_norm")],
    ("GRU", {"layer_norm": None}, TypeError, ("layer_norm=None", FLAG)),
    ("GRU", {"reset_after": "no"}, TypeError, ("reset_after='no'", FLAG)),
    *[
        (kind, {name: value}, error, (f"{name}={value!r}", LIMIT))
        for kind, name in (("LSTM", "clip"), ("LSTM", "cell_clip"), ("GRU", "clip"), ("RNN", "clip"))
        for value, error in (
            (0, ValueError),
            (-1, ValueError),
            (math.nan, ValueError),
            (math.inf, ValueError),
            ("1", TypeError),
            (True, TypeError),
        )
    ],
    *[
        (kind, {"activations": value, **more}, ValueError, ("activations=", f"a tuple of {count}", letters))
        for kind, value, more, count, letters in (
            ("LSTM", ("tanh",) * 4, {}, 5, "i f g o h"),
            ("LSTM", ("tanh",) * 5, {"coupled": True}, 4, "f g o h"),
            ("LSTM", ["tanh"] * 5, {}, 5, "i f g o h"),
            ("LSTM", "tanh", {}, 5, "i f g o h"),
            ("LSTM", (), {}, 5, "i f g o h"),
            ("GRU", ("tanh",) * 2, {}, 3, "r z n"),
        )
    ],
    ("LSTM", {"activations": ("tanh", "tanh", "swish", "tanh", "tanh")}, ValueError, ("activations, g='swish'",)),
    ("LSTM", {"activations": ("no",) + ("tanh",) * 3, "coupled": True}, ValueError, ("activations, f='no'",)),
    ("LSTM", {"activations": ("tanh",) * 3 + (("tanh", 1.0), "tanh")}, ValueError, ("activations, o=", "no constants")),
    ("LSTM", {"activations": ("tanh",) * 4 + (("elu", "a"),)}, TypeError, ("activations, h=", "'a' is no finite")),
    ("LSTM", {"activations": ("affine",) + ("tanh",) * 4}, ValueError, ("activations, i=", "affine has alpha, beta")),
    ("GRU", {"activations": ("tanh", None, "tanh")}, ValueError, ("activations, z=None",)),
    ("GRU", {"activations": ("tanh", "tanh", ("elu", -1))}, ValueError, ("activations, n=", "alpha >= 0")),
    ("RNN", {"nonlinearity": "swish"}, ValueError, ("nonlinearity='swish'", "'softplus'")),
    ("RNN", {"nonlinearity": ("tanh", 1)}, ValueError, ("nonlinearity=('tanh', 1)", "no constants")),
    *[
        ("LSTM", {name: value, **TWO}, error, (f"{name}={value!r}", f"0 <= {name} < 1"))
        for name in RATES
        for value, error in ((1.0, ValueError), (-0.1, ValueError), (math.nan, ValueError), ("0.5", TypeError))
    ],
    *[
        ("LSTM", {name: value}, error, (f"{name}={value!r}", WHOLE))
        for name in ("remat", "ensemble")
        for value, error in ((-1, ValueError), (True, ValueError), (1.5, TypeError), (None, TypeError))
    ],
    ("GRU", {"remat": "often"}, ValueError, ("remat='often'", WHOLE, "'auto'")),
    ("GRU", {"ensemble": "two"}, TypeError, ("ensemble='two'", WHOLE)),
    *[
        (kind, {name: value}, TypeError, (name,))
        for kind, name, value in (
            ("RNN", "peephole", True),
            ("RNN", "zoneout_c", 0.1),
            ("RNN", "layer_norm", True),
            ("RNN", "activations", ("tanh",)),
            ("GRU", "peephole", True),
            ("GRU", "coupled", True),
            ("GRU", "cell_clip", 1.0),
            ("GRU", "zoneout_c", 0.1),
        )
    ],
]


def refused(error: type[Exception], words: tuple[str, ...], do: Any, *arguments: Any, **options: Any) -> None:
    with pytest.raises(error) as caught:
        do(*arguments, **options)
    assert type(caught.value) is error
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(("kind", "options", "error", "words"), BAD_OPTIONS, ids=lambda v: str(v)[:60])
def test_bad_options(kind, options, error, words):
    refused(error, words, getattr(pr, kind), 2, 7, **options)


def test_a_cell_that_does_not_drop_its_state():
    class Cell(pr.cells.GRUCell):
        drops_state = False

    class Layer(pr.GRU):
        cell = Cell()

    refused(ValueError, ("recurrent_dropout=0.2", "Cell", "drops_state"), Layer, 2, 7, recurrent_dropout=0.2)
    Layer(2, 7, zoneout_h=0.2, input_dropout=0.2)


DROPPED = dict.fromkeys(RATES, 0.2) | TWO | {"bidirectional": True}
T, N, I, H = variants.SIZES
MASKS = {  # their shapes, and what these are called
    "dropout_l0": ((T, N, 2 * H), "(T, N, D*P)"),
    "input_dropout_l0": ((N, I), "(N, I)"),
    "input_dropout_l1": ((N, 2 * H), "(N, D*P)"),
    "recurrent_dropout_l0": ((N, H), "(N, H)"),
    "recurrent_dropout_l1_reverse": ((N, H), "(N, H)"),
    "output_dropout": ((N, 2 * H), "(N, D*P)"),
    "zoneout_h_l0": ((T, N, H), "(T, N, H)"),
    "zoneout_c_l0_reverse": ((T, N, H), "(T, N, H)"),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("kind", ["lacks", "None", "unknown", "size", "rank", "dtype", "other names"])
def test_bad_masks(name, kind):
    layer, (shape, letters) = pr.LSTM(I, H, **DROPPED), MASKS[name]
    params, x = layer.init(dtype="float64"), np.ones((T, N, I))
    shapes = {key: MASKS.get(key.replace("_l1", "_l0").replace("_reverse", ""), (None,))[0] for key in layer._masks}
    shapes |= {key: known for key, (known, _) in MASKS.items()}
    shapes |= {key: (T, N, H) for key in layer._masks if key.startswith("zoneout")}
    masks = {key: np.ones(shapes[key], dtype=bool) for key in layer._masks}
    layer(params, x, masks=masks)
    found = f"masks['{name}'] has "
    bad, error, words = {
        "lacks": ({k: m for k, m in masks.items() if k != name}, ValueError, (f"masks lacks {name};",)),
        "None": (masks | {name: None}, ValueError, (f"masks lacks {name};",)),
        "unknown": (masks | {name + "9": masks[name]}, ValueError, (f"masks has unknown {name}9;", name)),
        "size": (masks | {name: np.ones((*shape[:-1], 1), bool)}, ValueError, (found + "shape", str(shape), letters)),
        "rank": (masks | {name: np.ones(shape[1:], bool)}, ValueError, (found + "shape", str(shape), letters)),
        "dtype": (masks | {name: np.ones(shape)}, TypeError, (found + "dtype float64", "bool")),
        "other names": ({"mask": masks[name]}, ValueError, ("masks lacks ", name, "and has unknown mask;")),
    }[kind]
    refused(error, words, layer, params, x, masks=bad)


def test_masks_that_are_no_dict():
    layer = pr.GRU(I, H, zoneout_h=0.2)
    params, x = layer.init(dtype="float64"), np.ones((T, N, I))
    refused(ValueError, ("masks is a ndarray", "zoneout_h_l0"), layer, params, x, masks=np.ones((T, N, H), bool))
    plain = pr.GRU(I, H)
    refused(ValueError, ("GRU has no dropout", "expected None"), plain, plain.init(dtype="float64"), x, masks={})


def test_bad_arguments_of_an_ensemble():
    layer, other = pr.LSTM(I, H, ensemble=4, recurrent_dropout=0.2), pr.LSTM(I, H, ensemble=2)
    params, x, zeros = layer.init(dtype="float64"), np.ones((T, N, I)), np.zeros
    *_, tape = layer.forward(params, x)
    for error, words, do, *arguments in (
        (ValueError, ("x has shape (5, 2)", "(T, N, I), or of each member (E, ...)"), layer, params, x[:, 0]),
        (ValueError, ("x has shape (2, 5, 3, 2)", "(4, any, any, 2) = (E, T, N, I)"), layer, params, np.stack([x, x])),
        (ValueError, ("x has shape (1, 1, 5, 3, 2)", "(E, ...)"), layer, params, x[None, None]),
        (ValueError, ("state h has shape (1, 3, 7)", "(E, L*D, N, H)"), layer, params, x, (zeros((1, N, H)), None)),
        (ValueError, ("state c has shape (2, 1, 3, 7)",), layer, params, x, (None, zeros((2, 1, N, H)))),
        (ValueError, ("'weight_ih_l0'", "(2, 28, 2)", "(4, 28, 2)"), layer, other.init(dtype="float64"), x),
        (ValueError, ("'weight_ih_l0'", "(28, 2)", "(4, 28, 2)"), layer, pr.LSTM(I, H).init(dtype="float64"), x),
        (
            ValueError,
            ("dy has shape (5, 3, 7)", "(4, 5, 3, 7) = (E, T, N, D*P)"),
            layer.backward,
            tape,
            zeros((T, N, H)),
        ),
        (ValueError, ("dstate h", "(E, L*D, N, H)"), layer.backward, tape, None, (zeros((1, N, H)), None)),
        (ValueError, ("x has shape (2,)", "(N, I), or (4, N, 2) = (E, N, I)"), layer.step, params, x[0, 0]),
        (ValueError, ("lengths has shape (4,)", "(3,) = (N,)"), layer, params, x, None, [1, 2, 3, 4]),
    ):
        refused(error, words, do, *arguments)
    mask = {"recurrent_dropout_l0": np.ones((N, H), bool)}
    refused(ValueError, ("has shape (3, 7)", "(4, 3, 7) = (E, N, H)"), layer, params, x, masks=mask)
    plain = pr.LSTM(I, H)
    refused(ValueError, ("(4, 5, 3, 2)", "(T, N, I)"), plain, plain.init(dtype="float64"), np.stack([x] * 4))
