"""The one table of what there is and where it runs.

`SUBJECTS` are the rows of `polyrnn check` and the parameters of tests that go over everything with a gradient;
`BACKENDS` and `FEATURES` are the support table of the README, which `markdown` makes. Run as a program,
`python -m polyrnn.capabilities`, this module prints that table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy

from . import kernels, layers, losses
from ._module import Module
from .cells import Cell
from .gradcheck._layers import layer_problem
from .gradcheck._losses import loss_problem
from .gradcheck._problem import Problem
from .gradcheck._textbook import KINDS, textbook_problem
from .modules import Dropout, Embedding, Linear, Sequential
from .pooling import Pool

# Distinct primes, and none equal to T = 7 or N = 3 of the gradient checks, so that no mix-up of axes goes unseen.
I, H, V = 2, 5, 11


class Subject(NamedTuple):
    """Something with a hand-written gradient, in one combination of its options.

    Attributes
    ----------
    group : str
        "layers", "modules", "losses" or "textbook functions".
    name : str
        With its options, such as "LSTM, no bias, lengths"; no two are alike.
    problem : callable
        seed -> the function, its gradient and a random point, for `polyrnn.gradcheck`.
    module : Module or None
        The layer or module, if it is one.
    cells : tuple of Cell
        The cells that it runs.
    unsupported : dict of str to str
        The backends on which it does not run, with the reason.
    """

    group: str
    name: str
    problem: Callable[[int], Problem]
    module: Module | None = None
    cells: tuple[Cell, ...] = ()
    unsupported: Mapping[str, str] = MappingProxyType({})

    @property
    def kernel(self) -> bool:
        """Whether there is a kernel on NumPy for one of its cells."""
        return any(type(cell) in kernels._CELLS for cell in self.cells)


def _layer(group: str, name: str, module: Module, lengths: bool) -> Subject:
    title = f"{name}, lengths" if lengths else name
    return Subject(group, title, lambda seed: layer_problem(module, None, 7, 3, lengths, seed), module, _cells(module))


def _cells(module: Module) -> tuple[Cell, ...]:
    members = [member for _, member in module.members] if isinstance(module, Sequential) else [module]
    return tuple(member.cell for member in members if isinstance(member, layers.Recurrent))


def _loss(name: str, loss: Callable, labels: bool, masked: bool) -> Subject:
    def problem(seed: int) -> Problem:
        rng = numpy.random.default_rng([seed, 4])
        prediction = rng.standard_normal((7, 3, 5))
        target = rng.integers(0, 5, (7, 3)) if labels else rng.standard_normal((7, 3, 5))
        return loss_problem(loss, prediction, target, rng.random((7, 3)) < 0.6 if masked else None)

    return Subject("losses", f"{name}, mask" if masked else name, problem)


def _textbook(cell: str, one_step: bool) -> Subject:
    name = f"{cell}_cell_backward" if one_step else f"{cell}_backward"
    return Subject(
        "textbook functions", name, lambda seed: textbook_problem(cell, one_step, seed), cells=(KINDS[cell].cell,)
    )


_LAYERS: dict[str, Callable[[bool], layers.Recurrent]] = {
    "RNN tanh": lambda bias: layers.RNN(I, H, bias=bias),
    "RNN relu": lambda bias: layers.RNN(I, H, bias=bias, nonlinearity="relu"),
    "LSTM": lambda bias: layers.LSTM(I, H, bias=bias),
    "GRU reset after": lambda bias: layers.GRU(I, H, bias=bias),
    "GRU reset before": lambda bias: layers.GRU(I, H, bias=bias, reset_after=False),
}
_DEEP: dict[str, layers.Recurrent] = {
    "RNN relu, 3 layers": layers.RNN(I, H, num_layers=3, nonlinearity="relu"),
    "RNN tanh, 2 layers, both directions, dropout": layers.RNN(I, H, num_layers=2, bidirectional=True, dropout=0.4),
    "LSTM, 2 layers, both directions, dropout": layers.LSTM(I, H, num_layers=2, bidirectional=True, dropout=0.4),
    "LSTM, projection": layers.LSTM(I, H, proj_size=3),
    "LSTM, 2 layers, both directions, projection, batch first": layers.LSTM(
        I, H, num_layers=2, bidirectional=True, proj_size=3, batch_first=True
    ),
    "GRU reset after, 2 layers, both directions, dropout": layers.GRU(
        I, H, num_layers=2, bidirectional=True, dropout=0.4
    ),
    "GRU reset before, both directions": layers.GRU(I, H, bidirectional=True, reset_after=False),
}
# Of each option a combination or two, with lengths.
_OPTIONS: dict[str, layers.Recurrent] = {
    "RNN softsign, clipping": layers.RNN(I, H, nonlinearity="softsign", clip=0.9),
    "LSTM, peepholes, projection": layers.LSTM(I, H, peephole=True, proj_size=3),
    "LSTM, coupled gates, peepholes": layers.LSTM(I, H, coupled=True, peephole=True),
    "LSTM, clipping of the gates and of c": layers.LSTM(I, H, clip=0.9, cell_clip=0.5),
    "LSTM, layer normalisation": layers.LSTM(I, H, layer_norm=True),
    "LSTM, other activations": layers.LSTM(
        I, H, activations=(("scaled_tanh", 0.9, 0.7), "hard_sigmoid", "softplus", ("elu", 0.8), ("affine", 0.7, 0.1))
    ),
    "GRU reset after, layer normalisation": layers.GRU(I, H, layer_norm=True),
    "GRU reset before, layer normalisation, clipping": layers.GRU(I, H, layer_norm=True, reset_after=False, clip=0.9),
    "GRU, other activations": layers.GRU(I, H, activations=("hard_sigmoid", ("leaky_relu", 0.1), "softsign")),
    "LSTM, 2 layers, variational dropout": layers.LSTM(
        I, H, num_layers=2, input_dropout=0.3, recurrent_dropout=0.4, output_dropout=0.2
    ),
    "GRU reset before, both directions, variational dropout": layers.GRU(
        I, H, reset_after=False, bidirectional=True, recurrent_dropout=0.4
    ),
    "LSTM, both directions, zoneout": layers.LSTM(I, H, bidirectional=True, zoneout_h=0.3, zoneout_c=0.2),
    "GRU reset after, zoneout, segments of steps computed again": layers.GRU(I, H, zoneout_h=0.3, remat=3),
    "LSTM, 2 layers, ensemble of 3": layers.LSTM(I, H, num_layers=2, ensemble=3),
}
_MODULES: dict[str, Module] = {
    "Embedding": Embedding(V, I),
    "Linear": Linear(I, H),
    "Linear, no bias": Linear(I, H, bias=False),
    "Dropout": Dropout(0.4),
    "Pool, last": Pool("last"),
    "Pool, mean": Pool("mean"),
    "Pool, max": Pool("max"),
    "Sequential": Sequential(
        embedding=Embedding(V, I), dropout=Dropout(0.4), lstm=layers.LSTM(I, H), head=Linear(H, V)
    ),
    "Sequential, classifier": Sequential(
        embedding=Embedding(V, I), lstm=layers.LSTM(I, H), pool=Pool("mean"), head=Linear(H, V)
    ),
}
SUBJECTS: tuple[Subject, ...] = (
    *(
        _layer("layers", name if bias else f"{name}, no bias", make(bias), lengths)
        for name, make in _LAYERS.items()
        for bias in (True, False)
        for lengths in (False, True)
    ),
    *(_layer("layers", name, layer, lengths) for name, layer in _DEEP.items() for lengths in (False, True)),
    *(_layer("layers", name, layer, True) for name, layer in _OPTIONS.items()),
    *(_layer("modules", name, module, lengths) for name, module in _MODULES.items() for lengths in (False, True)),
    *(_loss("softmax cross-entropy", losses.softmax_cross_entropy, True, masked) for masked in (False, True)),
    *(_loss("mean squared error", losses.mean_squared_error, False, masked) for masked in (False, True)),
    *(_textbook(cell, one_step) for cell in ("rnn", "lstm", "gru") for one_step in (True, False)),
)

# Backend -> where it runs, and how that was tested.
BACKENDS: dict[str, tuple[str, str]] = {
    "numpy": ("CPU", "the whole suite, with read-only arrays too"),
    "cupy": ("NVIDIA GPU", "the whole suite on an emulation of the CUDA API; not yet on a GPU"),
    "jax": ("CPU, GPU, TPU", "the whole suite on a CPU, eager and jitted"),
    "torch": ("CPU", "the whole suite, where PyTorch is installed (not in `tox`)"),
    "array_api_strict": ("CPU", "the whole suite"),
}


class Feature(NamedTuple):
    """A line of the support table: what it is, on which backends, and what there is to say about some of them."""

    name: str
    backends: tuple[str, ...] = tuple(BACKENDS)
    remarks: Mapping[str, str] = MappingProxyType({})


FEATURES: tuple[Feature, ...] = (
    *(
        Feature(f"`{name}`" if " " not in name else f"`{name.split()[0]}` ({name.split(' ', 1)[1]})")
        for name in _LAYERS
    ),
    Feature("`num_layers`, `bidirectional`, `dropout` between layers, `proj_size` (LSTM), `batch_first`, `bias`"),
    Feature(
        "peepholes, coupled gates, clipping, layer normalisation (LSTM, GRU), a choice of activations for each gate"
    ),
    Feature("variational dropout of inputs, states and outputs; zoneout of h and c; masks by seed or passed in"),
    Feature("segments of steps computed again (`remat`), truncated backpropagation through time"),
    Feature("ensembles (`ensemble=E`), gradients of each example (`per_sample`)"),
    Feature("lengths or masks of valid steps, initial and final states, one step at a time, one sequence without N"),
    Feature("initialisers by name, learned initial states, cells of your own"),
    *(Feature(f"`{name}`") for name in dict.fromkeys(name.partition(",")[0] for name in _MODULES)),
    Feature("textbook functions of RNN, LSTM and GRU"),
    Feature("losses, optimisers, clipping, schedules, a training step", remarks={"jax": "yes, as one function"}),
    Feature("float32"),
    Feature("float64", remarks={"jax": "with `jax_enable_x64`"}),
    Feature("float16 (layers; sums in float32)", ("numpy", "cupy", "jax"), {"numpy": "yes, slow"}),
    Feature("bfloat16 (layers; sums in float32)", ("jax",)),
    Feature(
        f"kernels for plain {', '.join(kernels._CELLS.values())} (reset after)",
        ("numpy", "cupy"),
        {"numpy": "in place; compiled with `[fast]`", "cupy": "one launch and one product a step"},
    ),
    Feature("`jit`, `vmap`; the library's `grad` through the hand-written backward pass", ("jax",)),
)


def markdown() -> str:
    """The support table of the README, in Markdown.

    Returns
    -------
    str
        What stands there between `<!-- capabilities -->` and `<!-- /capabilities -->`.

    Examples
    --------
    >>> from polyrnn.capabilities import markdown
    >>> print(markdown().splitlines()[0])
    | | numpy | cupy | jax | torch | array_api_strict |
    """
    rows = []
    for feature in FEATURES:
        cells = (feature.remarks.get(n, "yes" if n in feature.backends else "–") for n in BACKENDS)
        rows.append([feature.name, *cells])
    rows.append(["runs on", *(where for where, _ in BACKENDS.values())])
    rows.append(["tested by", *(tested for _, tested in BACKENDS.values())])
    lines = ["| | " + " | ".join(BACKENDS) + " |", "|---" * (len(BACKENDS) + 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
