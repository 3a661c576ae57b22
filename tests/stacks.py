"""Random configurations of deep, bidirectional, projected layers, and what PyTorch makes of them.

`configuration(k)` and `arrays` draw from NumPy's legacy generator, whose numbers are frozen, so that only PyTorch's
results have to be stored (`stored/make_torch_stacks.py`); `by_torch` makes them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from oracle import numpy_loops as oracle

COUNT = 240  # of the stored ones


@dataclass(frozen=True)
class Configuration:
    """A layer's options and the form of its arguments."""

    kind: str
    sizes: tuple[int, int, int, int]  # T, N, I, H
    options: dict[str, Any]
    one: bool  # a single sequence, without the axis N
    lengths: tuple[int, ...] | None
    with_state: bool

    @property
    def directions(self) -> int:
        return 2 if self.options["bidirectional"] else 1

    @property
    def state_shapes(self) -> list[tuple[int, ...]]:
        batch = () if self.one else (self.sizes[1],)
        count, hidden = self.options["num_layers"] * self.directions, self.sizes[3]
        out = self.options.get("proj_size") or hidden
        return [(count, *batch, out)] + ([(count, *batch, hidden)] if self.kind == "LSTM" else [])

    def shape(self, size: int) -> tuple[int, ...]:
        """Of a sequence, in the layout of the door."""
        steps, batch, *_ = self.sizes
        if self.one:
            return steps, size
        return (batch, steps, size) if self.options["batch_first"] else (steps, batch, size)


def configuration(k: int) -> Configuration:
    """The k-th one."""
    rng = np.random.RandomState(k)
    kind = ("RNN", "LSTM", "GRU")[k % 3]
    steps, batch, inputs, hidden = rng.randint(2, 7), rng.randint(1, 5), rng.randint(1, 5), rng.randint(2, 6)
    options: dict[str, Any] = {
        "num_layers": int(rng.randint(1, 4)),
        "bias": bool(rng.rand() < 0.7),
        "batch_first": bool(rng.rand() < 0.5),
        "bidirectional": bool(rng.rand() < 0.5),
    }
    if kind == "RNN":
        options["nonlinearity"] = ("tanh", "relu")[rng.randint(2)]
    if kind == "LSTM" and rng.rand() < 0.5:
        options["proj_size"] = int(rng.randint(1, hidden))
    one = bool(rng.rand() < 0.2)
    lengths = None
    if not one and rng.rand() < 0.5:
        lengths = [int(n) for n in rng.randint(1, steps + 1, batch)]  # PyTorch knows no length 0
        lengths[rng.randint(batch)] = steps  # nor padding in all of them
    return Configuration(
        kind, (steps, batch, inputs, hidden), options, one, tuple(lengths) if lengths else None, rng.rand() < 0.8
    )


def arrays(k: int, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Parameters of these shapes, x, states, dy and dstates, in float64."""
    c, rng = configuration(k), np.random.RandomState(10_000 + k)
    size = c.directions * c.state_shapes[0][-1]
    return {
        "params": {name: 0.5 * rng.standard_normal(shape) for name, shape in shapes.items()},
        "x": rng.standard_normal(c.shape(c.sizes[2])),
        "state": tuple(rng.standard_normal(shape) for shape in c.state_shapes),
        "dy": rng.standard_normal(c.shape(size)),
        "dstate": tuple(rng.standard_normal(shape) for shape in c.state_shapes),
    }


def by_torch(k: int) -> dict[str, np.ndarray]:
    """y, state.0, state.1, grad/x, grad/state.0, ..., and grad/NAME for each parameter."""
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    c = configuration(k)
    steps, _, inputs, hidden = c.sizes
    layer = getattr(torch.nn, c.kind)(inputs, hidden, **c.options).double()
    a = arrays(k, {name: tuple(p.shape) for name, p in layer.named_parameters()})
    layer.load_state_dict({name: torch.from_numpy(value) for name, value in a["params"].items()})
    x, *start = (torch.tensor(value, requires_grad=True) for value in (a["x"], *a["state"]))
    state = None if not c.with_state else tuple(start) if len(start) > 1 else start[0]
    if c.lengths is None:
        y, end = layer(x, state)
    else:
        first = c.options["batch_first"]
        packed = pack_padded_sequence(x, torch.tensor(c.lengths), batch_first=first, enforce_sorted=False)
        y, end = layer(packed, state)
        y, _ = pad_packed_sequence(y, batch_first=first, total_length=steps)
    ends = end if isinstance(end, tuple) else (end,)
    parts = zip((y, *ends), (a["dy"], *a["dstate"]), strict=True)
    sum((part * torch.from_numpy(above)).sum() for part, above in parts).backward()
    found = {"y": y, "grad/x": x.grad} | {f"state.{m}": end for m, end in enumerate(ends)}
    if c.with_state:
        found |= {f"grad/state.{m}": part.grad for m, part in enumerate(start)}
    found |= {f"grad/{name}": parameter.grad for name, parameter in layer.named_parameters()}
    return {name: value.detach().numpy().copy() for name, value in found.items()}


def by_loops(
    layer: Any, params: dict, x: np.ndarray, state: tuple, valid: np.ndarray, masks: dict | None = None
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """y (T, N, D*H) and the final states by the scalar loops of the oracle, one sequence after the other.

    `valid` (T, N): the other steps are taken out of a sequence before it is run, forward or backward.
    """
    kind = type(layer).__name__.lower()
    options = {name: getattr(layer, name) for name in ("nonlinearity", "reset_after") if hasattr(layer, name)}
    steps, batch, _ = x.shape
    ends = [np.zeros_like(part) for part in state]
    suffixes = ("", "_reverse") if layer.bidirectional else ("",)
    for k in range(layer.num_layers):
        if k and masks is not None:
            x = np.where(masks[f"dropout_l{k - 1}"], x / (1 - layer.dropout), 0.0)
        y = np.zeros((steps, batch, len(suffixes) * layer.hidden_size))
        for d, suffix in enumerate(suffixes):
            own = {f"{n}_l0": params.get(f"{n}_l{k}{suffix}") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
            own = {name: value for name, value in own.items() if value is not None}
            at = k * len(suffixes) + d
            for n in range(batch):
                run = np.flatnonzero(valid[:, n])[:: -1 if suffix else 1]
                found, *end = getattr(oracle, kind)(
                    own, x[run, n][:, None], *(s[at, n][None] for s in state), **options
                )
                y[run, n, d * layer.hidden_size : (d + 1) * layer.hidden_size] = found[:, 0]
                for whole, part in zip(ends, end, strict=True):
                    whole[at, n] = part[0]
        x = y
    return x, tuple(ends)
