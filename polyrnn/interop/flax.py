"""Flax' recurrent cells, of linen and of nnx.

A tree is nested dicts of arrays: linen's variables, an nnx State, or a live nnx module. A cell is known by the keys
that it holds, wherever it stands, and named by its path, such as "encoder.cell"; a tree that is itself a cell has the
name "". Kernels are (inputs, outputs), y = x W, and gate blocks stand in polyrnn's order, i f g o and r z n:

| cell | input's kernels | recurrent kernels | bias |
|---|---|---|---|
| linen LSTMCell, OptimizedLSTMCell | ii if ig io (I, H) each | hi hf hg ho (H, H) each | of hi hf hg ho (H,) each |
| linen GRUCell | ir iz in (I, H) each | hr hz hn (H, H) each | of ir iz in, and of hn (H,) each |
| linen SimpleCell | i (I, H) | h (H, H) | of i (H,) |
| nnx LSTMCell | ii if_ ig io (I, H) each | hi hf hg ho (H, H) each | of hi hf hg ho (H,) each |
| nnx OptimizedLSTMCell | dense_i (I, 4H) | dense_h (H, 4H) | of dense_h (4H,) |
| nnx GRUCell | dense_i (I, 3H) | dense_h (H, 3H) | of dense_i (3H,) |
| nnx SimpleCell | dense_i (I, H) | dense_h (H, H) | of dense_i (H,) |

Where Flax has one bias, it becomes bias_ih, and bias_hh is zero; on the way out the two are added. Flax' carry of an
LSTM is (c, h), polyrnn's state (h, c). A tree does not tell a cell's functions, nor whether a SimpleCell is `residual`:
the first are taken for Flax' defaults unless the call names others, the second for False. A live nnx module tells both.
Arrays of bfloat16, which NumPy has not, become float32, exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..activations import Activation, activation
from ._converted import (
    OURS,
    Converted,
    kind_of,
    only,
    refuse,
)
from ._tree import array, at, children, each, exactly, holding, is_module, join, nests, one, one_dtype

__all__ = ["dump", "find", "join", "load"]


class _Form(NamedTuple):
    """Where a cell has its kernels and biases: names of sub-trees, each for as many of the gate blocks as the others.

    `inner` has the bias of a GRU's candidate inside of the product with r, bias_hn.
    """

    kind: str
    inputs: tuple[str, ...]
    recurrent: tuple[str, ...]
    biases: tuple[str, ...]
    inner: tuple[str, ...] = ()

    def leaves(self) -> dict[str, set[str]]:
        """What each sub-tree holds."""
        biased = self.biases + self.inner
        return {name: {"kernel", "bias"} if name in biased else {"kernel"} for name in self.inputs + self.recurrent}


_GATES = ("hi", "hf", "hg", "ho")
_LINEN_LSTM = _Form("lstm", ("ii", "if", "ig", "io"), _GATES, _GATES)
_FORMS = {
    ("linen", "LSTMCell"): _LINEN_LSTM,
    ("linen", "OptimizedLSTMCell"): _LINEN_LSTM,
    ("linen", "GRUCell"): _Form("gru", ("ir", "iz", "in"), ("hr", "hz", "hn"), ("ir", "iz", "in"), ("hn",)),
    ("linen", "SimpleCell"): _Form("rnn", ("i",), ("h",), ("i",)),
    ("nnx", "LSTMCell"): _Form("lstm", ("ii", "if_", "ig", "io"), _GATES, _GATES),
    ("nnx", "OptimizedLSTMCell"): _Form("lstm", ("dense_i",), ("dense_h",), ("dense_h",)),
    ("nnx", "GRUCell"): _Form("gru", ("dense_i",), ("dense_h",), ("dense_i",)),
    ("nnx", "SimpleCell"): _Form("rnn", ("dense_i",), ("dense_h",), ("dense_i",)),
}
_USUAL = {"lstm": "OptimizedLSTMCell", "gru": "GRUCell", "rnn": "SimpleCell"}

# Of jax.nn's functions, which live cells hold, polyrnn's names.
_FUNCTIONS: dict[str, str | tuple] = {name: name for name in ("sigmoid", "tanh", "relu", "elu", "softplus")}
_FUNCTIONS |= {"leaky_relu": "leaky_relu", "soft_sign": "softsign", "hard_sigmoid": ("hard_sigmoid", 1 / 6, 0.5)}


def find(
    source: Any,
    *,
    gate_fn: str | tuple | None = None,
    activation_fn: str | tuple | None = None,
    allow_nan: bool = False,
) -> dict[str, Converted]:
    """All recurrent cells of a tree or a live nnx module.

    Parameters
    ----------
    source : nested dict, nnx State or live nnx module
        linen's variables, {"params": ...}, or what is inside; other collections are left alone.
    gate_fn, activation_fn : str or tuple, optional
        The functions of the cells, in polyrnn's names (`polyrnn.activations.ACTIVATIONS`), which a tree does not tell;
        by default those of a live module, and of a tree Flax' defaults, "sigmoid" and "tanh".
    allow_nan : bool
        Whether weights may be NaN or infinite.

    Returns
    -------
    dict of str to Converted
        By the cells' paths, such as "encoder.cell". Each is a layer of one recurrence: the two cells of a Bidirectional
        are two, which `join` puts together. MGUCell and ConvLSTMCell have no counterpart and are left out.

    Raises
    ------
    ValueError
        If a cell lacks arrays, has others beside, or such of other shapes or dtypes; if a live one is residual or has a
        function that polyrnn does not have.
    TypeError
        If the source is no tree.

    Examples
    --------
    >>> import numpy as np
    >>> from polyrnn.interop import flax
    >>> cell = {"dense_i": {"kernel": np.ones((3, 20))}, "dense_h": {"kernel": np.ones((5, 20)), "bias": np.ones(20)}}
    >>> found = flax.find({"encoder": {"cell": cell}, "head": {"kernel": np.ones((5, 2))}})
    >>> list(found), found["encoder.cell"].layer.hidden_size
    (['encoder.cell'], 5)
    """
    found = holding(_params(source), _is_cell)
    return {name: _read(*cell, gate_fn, activation_fn, allow_nan) for name, cell in found.items()}


def load(
    source: Any,
    name: str | None = None,
    *,
    gate_fn: str | tuple | None = None,
    activation_fn: str | tuple | None = None,
    allow_nan: bool = False,
) -> Converted:
    """One recurrent cell of a tree or a live nnx module.

    Parameters
    ----------
    source, gate_fn, activation_fn, allow_nan
        As for `find`.
    name : str, optional
        The cell's path; not needed if there is but one.

    Returns
    -------
    Converted

    Raises
    ------
    ValueError, TypeError
        As `find` does, and if there is no such cell.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> from polyrnn.interop import flax
    >>> lstm = pr.LSTM(3, 5)
    >>> layer, params = flax.load({"params": flax.dump(lstm, lstm.init(seed=0), api="linen")})
    >>> y, (h, c) = layer(params, np.ones((7, 2, 3), dtype="float32"))
    >>> y.shape
    (7, 2, 5)
    """
    return _read(*only(holding(_params(source), _is_cell), name, "the tree"), gate_fn, activation_fn, allow_nan)


def dump(
    layer: Any,
    params: Any,
    *,
    api: str = "nnx",
    cell: str | None = None,
    gate_fn: str | tuple = "sigmoid",
    activation_fn: str | tuple = "tanh",
    allow_nan: bool = False,
) -> dict[str, Any]:
    """The tree of a Flax cell, for `nnx.update(cell, tree)` or `cell.apply({"params": tree}, carry, x)`.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
    params : dict of str to array
        Its parameters.
    api : {"nnx", "linen"}
        Whose tree.
    cell : {"LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell"}, optional
        Of which class; by default the layer's kind, an LSTM as OptimizedLSTMCell. linen's two LSTMs have the same tree.
    gate_fn, activation_fn : str or tuple
        What the Flax cell is built with, in polyrnn's names. The tree does not contain them; it is made only if they
        are what the layer has.
    allow_nan : bool
        Whether weights may be NaN or infinite.

    Returns
    -------
    dict
        Nested dicts of NumPy arrays. A layer of more than one recurrence gives a dict of such trees, for as many cells:
        "l0", "l1" and so on, each followed by its other direction, "l0_reverse", if it is bidirectional. The input of a
        cell of layer k > 0 is the output of layer k - 1, that of both directions one after the other.

    Raises
    ------
    ValueError
        If Flax' cell cannot represent the layer: an option, or in nnx a GRU's bias_hn other than zero.
    TypeError
        If it is no layer of polyrnn's.

    Examples
    --------
    >>> import polyrnn as pr
    >>> from polyrnn.interop import flax
    >>> lstm = pr.LSTM(3, 5, bidirectional=True)
    >>> tree = flax.dump(lstm, lstm.init(seed=0))
    >>> list(tree), tree["l0"]["dense_i"]["kernel"].shape
    (['l0', 'l0_reverse'], (3, 20))
    """
    kind = kind_of(layer)
    cell = _USUAL[kind] if cell is None else cell
    form = _FORMS.get((api, cell))
    if form is None or form.kind != kind:
        fitting = ", ".join(f"{a} {c}" for (a, c), f in _FORMS.items() if f.kind == kind)
        raise ValueError(f"api={api!r}, cell={cell!r}: expected one for {type(layer).__name__} of {fitting}")
    target = f"{api}.{cell}"
    refuse(layer, target, ("num_layers", "bidirectional", "bias", "nonlinearity", "activations"))
    has, asked = _functions_of(layer), _functions(kind, gate_fn, activation_fn)
    if has != asked:
        raise ValueError(
            f"{type(layer).__name__} has the functions {_named(has)}, and {target} with gate_fn={gate_fn!r} and "
            f"activation_fn={activation_fn!r} has {_named(asked)}; build the cell with functions that fit, if there "
            "are such, and name them here"
        )

    def write(own: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
        bias, inner = own["bias_ih"] + own["bias_hh"], own["bias_hh"][-layer.hidden_size :]
        if kind == "gru":
            bias[-layer.hidden_size :] = own["bias_ih"][-layer.hidden_size :]
            if not form.inner and inner.any():
                raise ValueError(
                    f"GRU has a bias_hn other than 0, up to {np.abs(inner).max():.3g}, inside of the product with r, "
                    f"where {target} has none; linen's GRUCell has one (api='linen')"
                )
        tree: dict[str, dict[str, np.ndarray]] = {name: {} for name in form.leaves()}
        for leaf, names, values in (
            ("kernel", form.inputs, own["weight_ih"].T),
            ("kernel", form.recurrent, own["weight_hh"].T),
            ("bias", form.biases, bias),
            ("bias", form.inner, inner),
        ):
            for name, part in zip(names, np.split(values, len(names) or 1, axis=-1)[: len(names)], strict=True):
                tree[name][leaf] = np.ascontiguousarray(part)
        return tree

    trees: dict[str, Any] = each(layer, params, write, allow_nan)
    return trees


def _params(source: Any) -> Any:
    """Of linen's variables the parameters."""
    linen = isinstance(source, Mapping) and isinstance(source.get("params"), Mapping)
    return source["params"] if linen else source


def _forms(node: Any) -> list[_Form]:
    """The forms that share most names with a node, if these are more than half of the form's."""
    names = {name for name, child in (children(node) or {}).items() if nests(child)}
    shared = {form: len(names & form.leaves().keys()) for form in _FORMS.values()}
    most = max(shared.values())
    return [form for form, n in shared.items() if n == most and 2 * n > len(form.leaves())]


def _is_cell(node: Any) -> bool:
    """Whether it holds more than half of the sub-trees of a cell: one that lacks some is told, not passed over."""
    return bool(_forms(node))


def _read(
    path: str, node: Any, gate_fn: str | tuple | None, activation_fn: str | tuple | None, allow_nan: bool
) -> Converted:
    """The cell at a node, checked."""
    forms, inside = _forms(node), children(node) or {}
    inside.pop("rngs", None)  # of a cell with keep_rngs
    exactly(inside, forms[0].leaves(), path, "a recurrent cell")
    parts = {name: children(child) or {} for name, child in inside.items()}
    form, first = forms[0], forms[0].recurrent[0]
    if len(forms) > 1 and "kernel" in parts[first]:  # nnx' dense_i and dense_h; the number of gate blocks tells which
        H, columns = array(parts[first]["kernel"], at(path, f"{first}.kernel"), (None, None), True).shape
        fitting = [form for form in forms if columns == H * len(OURS[form.kind])]
        if not fitting:
            raise ValueError(
                f"{at(path, first)}.kernel has shape {(H, columns)}; expected (H, 4H), an OptimizedLSTMCell's, "
                "(H, 3H), a GRUCell's, or (H, H), a SimpleCell's"
            )
        form = fitting[0]
    for name, leaves in form.leaves().items():
        exactly(parts[name], leaves, at(path, name), f"part of a cell ({form.kind})")

    met: dict[str, np.ndarray] = {}

    def read(leaf: str, names: tuple[str, ...], *shape: int | None) -> np.ndarray:
        found: list[np.ndarray] = []
        for name in names:
            expected = found[0].shape if found else shape
            found.append(array(parts[name][leaf], at(path, f"{name}.{leaf}"), expected, allow_nan))
            met[f"{name}.{leaf}"] = found[-1]
        return np.concatenate(found, axis=-1)

    H = array(parts[first]["kernel"], at(path, f"{first}.kernel"), (None, None), True).shape[0]
    width = H * len(OURS[form.kind]) // len(form.inputs)
    arrays = {
        "weight_ih": read("kernel", form.inputs, None, width).T,
        "weight_hh": read("kernel", form.recurrent, H, width).T,
        "bias_ih": read("bias", form.biases, width),
    }
    if form.inner:
        inner = read("bias", form.inner, width)
        arrays["bias_hh"] = np.concatenate([np.zeros(len(arrays["bias_ih"]) - H, inner.dtype), inner])
    one_dtype(path, met)
    return one(path, form.kind, arrays, **_options(path, node, form.kind, gate_fn, activation_fn))


def _options(
    path: str, node: Any, kind: str, gate_fn: str | tuple | None, activation_fn: str | tuple | None
) -> dict[str, Any]:
    """The layer's options, of the functions that are named, else of those of a live cell, else of the defaults."""
    live = vars(node) if is_module(node) else {}
    if live.get("residual"):
        raise ValueError(f"{path or 'the cell'} has residual=True, which polyrnn's RNN cannot represent")
    given = {"gate_fn": gate_fn, "activation_fn": activation_fn}
    for (name, spec), default in zip(given.items(), ("sigmoid", "tanh"), strict=True):
        function = live.get(name)
        if spec is None and function is not None:
            import jax  # there, since the function is Flax' or one of JAX'

            spec = next((ours for theirs, ours in _FUNCTIONS.items() if function is getattr(jax.nn, theirs)), None)
            if spec is None:
                raise ValueError(
                    f"{at(path, name)} is {function!r}; expected one of {', '.join(_FUNCTIONS)} of jax.nn, or "
                    f"{name}= in the call"
                )
        given[name] = default if spec is None else spec
    asked = _functions(kind, given["gate_fn"], given["activation_fn"])
    if asked == _functions(kind, "sigmoid", "tanh"):
        return {}
    specs = tuple((a.name, *a.constants) if a.constants else a.name for a in asked)
    return {"nonlinearity": specs[0]} if kind == "rnn" else {"activations": specs}


def _functions(kind: str, gate_fn: Any, activation_fn: Any) -> tuple[Activation, ...]:
    """Those of the gates, in polyrnn's order, and of an LSTM's c_t."""
    gate, new = activation(gate_fn, "gate_fn"), activation(activation_fn, "activation_fn")
    return {"lstm": (gate, gate, new, gate, new), "gru": (gate, gate, new), "rnn": (new,)}[kind]


def _functions_of(layer: Any) -> tuple[Activation, ...]:
    """The same of a layer."""
    kind = kind_of(layer)
    if kind == "rnn":
        return (activation(layer.nonlinearity),)
    if layer.activations is None:
        return _functions(kind, "sigmoid", "tanh")
    return tuple(map(activation, layer.activations))


def _named(functions: tuple[Activation, ...]) -> str:
    return ", ".join(" ".join(map(str, (a.name, *a.constants))) for a in functions)
