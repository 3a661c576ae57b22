"""Random configurations of the cells' variants, their arguments, and what the oracle's loops make of them."""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from oracle import variant_loops

import polyrnn as pr

SIZES = (5, 3, 2, 7)  # T, N, I, H
LENGTHS = (5, 0, 3)

# Every part by itself, and some together; the names say what they are for.
NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "peephole": ("LSTM", {"peephole": True}),
    "coupled": ("LSTM", {"coupled": True}),
    "coupled_peephole": ("LSTM", {"coupled": True, "peephole": True}),
    "clip": ("LSTM", {"clip": 0.6}),
    "clip_peephole_coupled": ("LSTM", {"clip": 0.6, "peephole": True, "coupled": True}),
    "cell_clip": ("LSTM", {"cell_clip": 0.5, "peephole": True}),
    "layer_norm": ("LSTM", {"layer_norm": True}),
    "layer_norm_nobias": ("LSTM", {"layer_norm": True, "bias": False}),
    "layer_norm_coupled": ("LSTM", {"layer_norm": True, "coupled": True}),
    "activations": (
        "LSTM",
        {
            "activations": (
                ("hard_sigmoid", 0.3),
                "softplus",
                ("scaled_tanh", 1.3, 0.6),
                ("affine", 0.4, 0.3),
                "softsign",
            )
        },
    ),
    "coupled_activations": (
        "LSTM",
        {"coupled": True, "activations": (("hard_sigmoid", 0.1, 0.4), ("elu", 0.7), "softplus", ("leaky_relu", 0.3))},
    ),
    "all": (
        "LSTM",
        {"peephole": True, "clip": 1.1, "cell_clip": 0.9, "layer_norm": True, "proj_size": 3, "num_layers": 2},
    ),
    "all_coupled": (
        "LSTM",
        {
            "peephole": True,
            "coupled": True,
            "clip": 1.1,
            "cell_clip": 0.9,
            "layer_norm": True,
            "proj_size": 3,
            "activations": ("sigmoid", ("scaled_tanh", 1.2, 0.7), "softsign", "tanh"),
            "bidirectional": True,
        },
    ),
    "dropout": (
        "LSTM",
        {"peephole": True, "layer_norm": True, "proj_size": 5, "bidirectional": True, "recurrent_dropout": 0.3},
    ),
    "gru_clip": ("GRU", {"clip": 0.6, "recurrent_dropout": 0.3}),
    "gru_clip_before": ("GRU", {"clip": 0.6, "reset_after": False}),
    "gru_layer_norm": ("GRU", {"layer_norm": True}),
    "gru_layer_norm_before": ("GRU", {"layer_norm": True, "reset_after": False, "recurrent_dropout": 0.4}),
    "gru_layer_norm_nobias": ("GRU", {"layer_norm": True, "bias": False}),
    "gru_layer_norm_before_nobias": ("GRU", {"layer_norm": True, "bias": False, "reset_after": False}),
    "gru_activations": ("GRU", {"activations": (("hard_sigmoid", 0.3), "softsign", ("elu", 0.6))}),
    "gru_all": (
        "GRU",
        {
            "activations": ("softplus", ("hard_sigmoid", 0.1), ("leaky_relu", 0.2)),
            "clip": 1.2,
            "layer_norm": True,
            "bidirectional": True,
        },
    ),
    "gru_all_before": (
        "GRU",
        {
            "activations": ("softsign", ("affine", 0.2, 0.5), ("scaled_tanh", 0.9, 1.2)),
            "clip": 1.2,
            "layer_norm": True,
            "reset_after": False,
            "num_layers": 2,
        },
    ),
    "rnn_clip": ("RNN", {"clip": 0.7, "recurrent_dropout": 0.3, "bidirectional": True}),
    "rnn_clip_relu": ("RNN", {"clip": 1.2, "nonlinearity": "relu", "num_layers": 2}),
    "rnn_scaled_tanh": ("RNN", {"nonlinearity": ("scaled_tanh", 1.2, 0.7), "bidirectional": True}),
    "rnn_elu": ("RNN", {"nonlinearity": ("elu", 0.6), "bias": False}),
    "rnn_thresholded_relu": ("RNN", {"nonlinearity": ("thresholded_relu", 0.3)}),
}
COUNT = 40  # of the random ones


@dataclass(frozen=True)
class Variant:
    """A layer's kind and options, with arguments on the host, float64."""

    kind: str
    options: dict[str, Any]
    params: dict[str, np.ndarray]
    x: np.ndarray
    state: tuple[np.ndarray, ...]
    lengths: tuple[int, ...] | None
    masks: dict[str, np.ndarray] | None
    dy: np.ndarray
    dstate: tuple[np.ndarray, ...]

    def layer(self, library: Any) -> Any:
        return getattr(library, self.kind)(self.x.shape[-1], SIZES[3], **self.options)

    @property
    def normalised(self) -> bool:
        return bool(self.options.get("layer_norm"))

    @property
    def point(self) -> dict[str, np.ndarray]:
        """Everything that has a gradient, by name."""
        return {**self.params, "x": self.x} | {f"state.{m}": part for m, part in enumerate(self.state)}

    def run(self, point: dict[str, np.ndarray]) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """y and the final states by the oracle's loops."""
        state = [point[f"state.{m}"] for m in range(len(self.state))]
        params = {name: point[name] for name in self.params}
        kept = None
        if self.masks is not None:
            share = 1 - self.options["recurrent_dropout"]
            kept = {name.removeprefix("recurrent_dropout"): mask / share for name, mask in self.masks.items()}
        return variant_loops.run(self.kind, self.options, params, point["x"], state, self.lengths, kept)

    def loss(self, point: dict[str, np.ndarray]) -> Any:
        """The sum of the results times their upstream gradients."""
        y, ends = self.run(point)
        return (y * self.dy).sum() + sum((s * d).sum() for s, d in zip(ends, self.dstate, strict=True))


class Proof(NamedTuple):
    """What a variant must give: outputs, and slopes along random directions in each of its arguments."""

    y: np.ndarray
    ends: tuple[np.ndarray, ...]
    slopes: list[tuple[str, np.ndarray, float]]


@functools.cache
def get(name: str | int) -> Variant:
    """The named or numbered one."""
    kind, options = NAMED[name] if isinstance(name, str) else configuration(name)
    rng = np.random.default_rng(list(f"variant {name}".encode()))
    steps, batch, inputs, hidden = SIZES
    layer = getattr(pr, kind)(inputs, hidden, **options)
    D = 2 if layer.bidirectional else 1
    sizes = layer.cell.state_sizes(hidden)
    gains = {key: 1.0 for key in layer.shapes() if key.startswith("weight_layer_norm")}
    states = [(layer.num_layers * D, batch, size) for size in sizes]
    dropped = [f"recurrent_dropout_l{k}{s}" for k in range(layer.num_layers) for s in ("", "_reverse")[:D]]
    return Variant(
        kind,
        options,
        {key: gains.get(key, 0.0) + 0.5 * rng.standard_normal(shape) for key, shape in layer.shapes().items()},
        rng.standard_normal((steps, batch, inputs)),
        tuple(rng.standard_normal(shape) for shape in states),
        LENGTHS if rng.random() < 0.5 else None,
        {key: rng.random((batch, sizes[0])) < 0.7 for key in dropped} if options.get("recurrent_dropout") else None,
        rng.standard_normal((steps, batch, D * sizes[0])),
        tuple(rng.standard_normal(shape) for shape in states),
    )


@functools.cache
def proof(name: str | int) -> Proof:
    """By the oracle: a complex step along a direction in each argument."""
    v, rng = get(name), np.random.default_rng(list(f"proof {name}".encode()))
    slopes = []
    for key, value in v.point.items():
        along = rng.standard_normal(value.shape)
        along /= np.linalg.norm(along)
        slopes.append((key, along, variant_loops.slope(v.loss, v.point, key, along)))
    return Proof(*v.run(v.point), slopes)


def configuration(k: int) -> tuple[str, dict[str, Any]]:
    """The k-th random one."""
    rng = np.random.default_rng(20_000 + k)

    def maybe(share: float = 0.5) -> bool:
        return bool(rng.random() < share)

    def limit() -> float | None:
        return float(rng.uniform(0.5, 1.5)) if maybe() else None

    kind = ("LSTM", "GRU", "LSTM", "RNN")[k % 4]
    options: dict[str, Any] = {"num_layers": int(rng.integers(1, 4)), "bidirectional": maybe(), "bias": maybe(0.7)}
    options["clip"] = limit()
    if kind == "RNN":
        return kind, options | {"nonlinearity": drawn(rng, "h")}
    options["layer_norm"] = maybe()
    if kind == "GRU":
        options |= {"reset_after": maybe()}
    else:
        options |= {"peephole": maybe(), "coupled": maybe(), "cell_clip": limit()}
        options["proj_size"] = int(rng.choice([0, 3]))
    letters = "rzn" if kind == "GRU" else "fgoh" if options["coupled"] else "ifgoh"
    options["activations"] = tuple(drawn(rng, letter) for letter in letters) if maybe(0.6) else None
    return kind, options


BOUNDED = ["sigmoid", "tanh", "softsign", ("scaled_tanh", 1.2, 0.7), ("hard_sigmoid", 0.3), ("hard_sigmoid", 0.2, 0.4)]
UNBOUNDED = ["relu", ("affine", 0.3, 0.2), ("elu", 0.5), ("leaky_relu", 0.2), ("thresholded_relu", 0.1), "softplus"]


def drawn(rng: np.random.Generator, letter: str) -> Any:
    """An activation; a gate's is bounded, so that no state grows from step to step."""
    choices = BOUNDED + (UNBOUNDED if letter in "gnh" else [])
    return choices[int(rng.integers(len(choices)))]
