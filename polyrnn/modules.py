"""What stands around a recurrent layer: Embedding, Linear, Dropout, Sequential."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy

from . import initializers
from . import masks as _masks
from ._door import (
    INTEGERS,
    check_array,
    check_flag,
    check_float,
    check_params,
    check_rate,
    check_size,
    dtype_name,
    valid_steps,
    wide,
)
from ._module import Gradients, Module, Stateless
from .backends import Backend, backend_of


@dataclass(frozen=True)
class Embedding(Stateless):
    """A table of vectors looked up by integer ids, as torch.nn.Embedding.

    Parameters
    ----------
    num_embeddings : int
        V, the number of ids; an id is 0 ... V-1.
    embedding_dim : int
        E, the length of a vector.

    Notes
    -----
    Parameters: `weight` (V, E), initially N(0, 1). Ids of any integer dtype and shape; the output has one more axis.
    Ids out of range raise ValueError; under a JAX trace they are clamped. The gradient of x is None.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> table = pr.Embedding(7, 3)
    >>> y, _ = table(table.init(seed=0), np.array([[1, 6]]))
    >>> y.shape
    (1, 2, 3)
    """

    num_embeddings: int
    embedding_dim: int

    def __post_init__(self) -> None:
        check_size("num_embeddings", self.num_embeddings)
        check_size("embedding_dim", self.embedding_dim)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Weight (V, E)."""
        return {"weight": (self.num_embeddings, self.embedding_dim)}

    def draw(self, rng: numpy.random.Generator) -> dict[str, numpy.ndarray]:
        """N(0, 1)."""
        return {"weight": initializers.normal()(rng, self.shapes()["weight"])}

    def _check(self, params: dict, x: Any) -> Backend:
        found = backend_of((params, x), "params and x")
        check_params(params, self.shapes(), "Embedding")
        if dtype_name(x) not in INTEGERS:
            raise TypeError(f"x has dtype {dtype_name(x)}; ids are whole numbers: expected an integer dtype")
        return found

    def _run(self, backend: Backend, params: dict, x: Any, seed: Any, masks: Any) -> tuple[Any, Any]:
        xp, last = backend.xp, self.num_embeddings - 1
        flat = xp.reshape(x, (-1,))
        concrete = backend.is_concrete(flat)
        if concrete and flat.shape[0]:
            # A GPU would wrap an id silently, so the two extremes are looked at on the host.
            low, high = int(xp.min(flat)), int(xp.max(flat))
            if low < 0 or high > last:
                wrong = low if low < 0 else high
                raise ValueError(f"x holds the id {wrong}; expected 0 <= id < num_embeddings = {self.num_embeddings}")
        if dtype_name(flat) not in ("int64", "int32"):  # PyTorch takes no other index
            flat = xp.astype(flat, xp.int32)
        if not concrete:
            flat = xp.clip(flat, 0, last)
        return xp.reshape(xp.take(params["weight"], flat, axis=0), (*x.shape, self.embedding_dim)), flat

    def _back(self, backend: Backend, params: dict, kept: Any, dy: Any) -> tuple[dict, Any]:
        rows = backend.xp.reshape(dy, (-1, self.embedding_dim))
        return {"weight": backend.scatter_add(rows, kept, self.num_embeddings)}, None


@dataclass(frozen=True)
class Linear(Stateless):
    """y = x W^T + b on the last axis, as torch.nn.Linear.

    Parameters
    ----------
    in_features, out_features : int
        The last axis of x and of y.
    bias : bool
        Whether there is a b.
    ensemble : int
        E: as many such maps at once, for E recurrent layers that `ensemble` has made one; x is then (E, ..., in), and
        weight and bias have an axis E in front. 0: one map.

    Notes
    -----
    Parameters: `weight` (out, in), `bias` (out,), initially U(-1/sqrt(in), 1/sqrt(in)). With the gradient dy:
    dx = dy W, dW = sum dy^T x and db = sum dy over all leading axes.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> head = pr.Linear(3, 2)
    >>> y, _ = head(head.init(seed=0), np.zeros((5, 4, 3), dtype="float32"))
    >>> y.shape
    (5, 4, 2)
    """

    in_features: int
    out_features: int
    bias: bool = True
    ensemble: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        check_size("in_features", self.in_features)
        check_size("out_features", self.out_features)
        check_flag("bias", self.bias)
        check_size("ensemble", self.ensemble, least=0)

    @property
    def _members(self) -> tuple[int, ...]:
        return (self.ensemble,) if self.ensemble else ()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Weight (out, in) and bias (out,)."""
        shapes = {"weight": (*self._members, self.out_features, self.in_features)}
        return shapes | ({"bias": (*self._members, self.out_features)} if self.bias else {})

    def draw(self, rng: numpy.random.Generator) -> dict[str, numpy.ndarray]:
        """U(-1/sqrt(in), 1/sqrt(in)), as PyTorch; of an ensemble one member after the other."""
        if self.ensemble:
            members = [replace(self, ensemble=0).draw(rng) for _ in range(self.ensemble)]
            return {name: numpy.stack([member[name] for member in members]) for name in self.shapes()}
        draw = initializers.uniform(self.in_features**-0.5)
        return {name: draw(rng, shape) for name, shape in self.shapes().items()}

    def _check(self, params: dict, x: Any) -> Backend:
        found = backend_of((params, x), "params and x")
        dtype = check_params(params, self.shapes(), "Linear")
        lead = self._members
        letters = "(E, ..., in_features)" if lead else "(..., in_features)"
        if x.ndim <= len(lead):
            raise ValueError(f"x has shape {tuple(x.shape)}; expected {letters}")
        check_array("x", x, (*lead, *(None,) * (x.ndim - 1 - len(lead)), self.in_features), dtype, letters)
        return found

    def _run(self, backend: Backend, params: dict, x: Any, seed: Any, masks: Any) -> tuple[Any, Any]:
        xp = backend.xp
        flat = xp.reshape(x, (*self._members, -1, self.in_features))  # one product, whatever the leading axes
        y = flat @ params["weight"].mT
        y = y + params["bias"][..., None, :] if self.bias else y
        return xp.reshape(y, (*x.shape[:-1], self.out_features)), flat

    def _back(self, backend: Backend, params: dict, kept: Any, dy: Any) -> tuple[dict, Any]:
        xp = backend.xp
        flat = xp.reshape(dy, (*self._members, -1, self.out_features))
        grads = {"weight": flat.mT @ kept}
        if self.bias:
            grads["bias"] = xp.astype(xp.sum(wide(xp, flat), axis=-2), dy.dtype, copy=False)
        return grads, xp.reshape(flat @ params["weight"], (*dy.shape[:-1], self.in_features))


@dataclass(frozen=True)
class Dropout(Stateless):
    """Sets elements to zero with probability p and divides the others by 1 - p, when a seed is given.

    Parameters
    ----------
    p : float
        The probability of a zero, 0 <= p < 1.

    Notes
    -----
    Without a seed it does nothing. The same seed gives the same mask on every backend, under jit too. `masks`
    replaces it: a boolean array of x's shape, True where an element is kept.

    Source: N. Srivastava et al., Dropout, JMLR 15 (2014), in the inverted form.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> y, _ = pr.Dropout(0.5)({}, np.ones((2, 4), dtype="float32"), seed=1)
    >>> sorted(set(y.ravel().tolist()))
    [0.0, 2.0]
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", check_rate("p", self.p))

    def _check(self, params: dict, x: Any) -> Backend:
        check_params(params, {}, "Dropout")
        check_float("x", x)
        return backend_of(x, "x")

    def _run(self, backend: Backend, params: dict, x: Any, seed: Any, masks: Any) -> tuple[Any, Any]:
        xp = backend.xp
        keep = masks
        if masks is not None:
            backend_of((x, masks), "x and masks")
            if dtype_name(masks) != "bool":
                raise TypeError(f"masks has dtype {dtype_name(masks)}; expected bool")
            check_array("masks", masks, x.shape, "bool")
        elif seed is not None and self.p:
            device = getattr(x, "device", None)  # a traced array has none
            keep = _masks.keep_mask(xp, _masks.fold(xp, seed, 0, device), x.shape, self.p, device)
        return self._drop(xp, keep, x), keep

    def _back(self, backend: Backend, params: dict, kept: Any, dy: Any) -> tuple[dict, Any]:
        return {}, self._drop(backend.xp, kept, dy)

    def _drop(self, xp: Any, keep: Any, x: Any) -> Any:
        return x if keep is None else xp.where(keep, x * (1 / (1 - self.p)), xp.zeros_like(x))


class SequentialTape(NamedTuple):
    """The members' tapes."""

    tapes: tuple


@dataclass(frozen=True, init=False, repr=False)
class Sequential(Module):
    """Modules one after another; the parameters' names are joined with dots.

    Parameters
    ----------
    *modules : Module
        Named "0", "1", ... as torch.nn.Sequential does.
    **named : Module
        Or modules with names of their own.

    Notes
    -----
    The state is a tuple with one entry a member (None for one that has no state). A seed goes to each member folded
    with its position; `masks` is a tuple with one entry a member. With a member that is `batch_first` all of x is
    (N, T, ...), and so is a mask of valid steps; members that run over time must agree on it. After a member that
    takes the axis of time away, such as `Pool`, there are no lengths, and no member may run over time.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> model = pr.Sequential(embedding=pr.Embedding(11, 5), lstm=pr.LSTM(5, 7), head=pr.Linear(7, 11))
    >>> params = model.init(seed=0)
    >>> sorted(params)[:2]
    ['embedding.weight', 'head.bias']
    >>> logits, state = model(params, np.array([[1, 2], [3, 4], [5, 6]]))
    >>> logits.shape
    (3, 2, 11)
    """

    members: tuple[tuple[str, Module], ...]

    def __init__(self, *modules: Module, **named: Module) -> None:
        members = (*((str(k), module) for k, module in enumerate(modules)), *named.items())
        for name, module in members:
            if not isinstance(module, Module):
                raise TypeError(f"Sequential: {name} is {module!r}; expected a module such as polyrnn.Linear(3, 2)")
        if not members:
            raise ValueError("Sequential: expected at least one module")
        _check_time(members)
        _check_ensembles(members)
        object.__setattr__(self, "members", members)

    def __repr__(self) -> str:
        return f"Sequential({', '.join(f'{name}={module!r}' for name, module in self.members)})"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Those of the members, with their names in front."""
        return {f"{name}.{key}": shape for name, module in self.members for key, shape in module.shapes().items()}

    def draw(self, rng: numpy.random.Generator) -> dict[str, numpy.ndarray]:
        """Those of the members, drawn in order."""
        return {f"{name}.{key}": value for name, module in self.members for key, value in module.draw(rng).items()}

    @property
    def ensemble(self) -> int:  # type: ignore[override]
        """The number of networks that run at once; 0 if it is one."""
        return max(member.ensemble for _, member in self.members)

    @property
    def batch_first(self) -> bool:  # type: ignore[override]
        """Whether a member takes (N, T, ...)."""
        return any(module.batch_first for _, module in self.members)

    @property
    def stepwise(self) -> bool:  # type: ignore[override]
        """Whether each member takes each step by itself."""
        return all(module.stepwise for _, module in self.members)

    @property
    def pools(self) -> bool:  # type: ignore[override]
        """Whether a member takes the axis of time away."""
        return any(module.pools for _, module in self.members)

    def _parts(self, params: dict) -> list[dict]:
        """Each member's own parameters, by their own names."""
        shapes = self.shapes()
        if not isinstance(params, dict) or params.keys() != shapes.keys():
            check_params(params, shapes, "Sequential")
        return [{key: params[f"{name}.{key}"] for key in module.shapes()} for name, module in self.members]

    def _entries(self, name: str, value: Any) -> tuple:
        count = len(self.members)
        if value is None:
            return (None,) * count
        if not isinstance(value, tuple) or len(value) != count:
            raise ValueError(f"{name}: expected a tuple with one entry for each of the {count} members, or None")
        return value

    def _run(self, call: str, params: dict, x: Any, state: Any, lengths: Any, seed: Any, masks: Any) -> list:
        apart = False  # whether x has an axis E in front of (T, N)
        if lengths is not None and (self.batch_first or self.ensemble) and x.ndim > 1:
            # A mask in x's layout means the same to every member, whether it knows of layouts or not.
            apart = self.ensemble > 0 and x.ndim > (2 if dtype_name(x) in INTEGERS else 3)
            lengths = valid_steps(backend_of(x, "x"), lengths, x[0, ...] if apart else x, self.batch_first)
            lengths = lengths.mT if self.batch_first else lengths
        results = []
        states, given = self._entries("state", state), self._entries("masks", masks)
        for k, (part, (_, module)) in enumerate(zip(self._parts(params), self.members, strict=True)):
            key = None if seed is None else _masks.fold(backend_of(part or x).xp, seed, k)
            own = lengths[None, ...] if lengths is not None and apart and module.stepwise else lengths
            results.append(getattr(module, call)(part, x, states[k], own, key, given[k]))
            x, apart = results[-1][0], apart or module.ensemble > 0
            lengths = None if module.pools else lengths
        return results

    def __call__(
        self, params: dict, x: Any, state: Any = None, lengths: Any = None, seed: Any = None, masks: Any = None
    ) -> tuple[Any, tuple]:
        """The last member's output, and the members' states."""
        results = self._run("__call__", params, x, state, lengths, seed, masks)
        return results[-1][0], tuple(state for _, state in results)

    def forward(
        self, params: dict, x: Any, state: Any = None, lengths: Any = None, seed: Any = None, masks: Any = None
    ) -> tuple[Any, tuple, SequentialTape]:
        """The last member's output, the members' states, and their tapes."""
        results = self._run("forward", params, x, state, lengths, seed, masks)
        return results[-1][0], tuple(r[1] for r in results), SequentialTape(tuple(r[2] for r in results))

    def backward(self, tape: SequentialTape, dy: Any = None, dstate: Any = None) -> Gradients:
        """The gradients of all members."""
        params: dict[str, Any] = {}
        before: list[Any] = []
        states = self._entries("dstate", dstate)
        for k, (name, module) in reversed(list(enumerate(self.members))):
            grads = module.backward(tape.tapes[k], dy, states[k])
            params |= {f"{name}.{key}": value for key, value in grads.params.items()}
            before.append(grads.state)
            dy = grads.x
        return Gradients({key: params[key] for key in self.shapes()}, dy, tuple(reversed(before)))

    def step(self, params: dict, x: Any, state: Any = None) -> tuple[Any, tuple]:
        """One time step through all members."""
        states = []
        for part, (_, module), before in zip(
            self._parts(params), self.members, self._entries("state", state), strict=True
        ):
            x, after = module.step(part, x, before)
            states.append(after)
        return x, tuple(states)


def _check_ensembles(members: tuple[tuple[str, Module], ...]) -> None:
    """All ensembles of one size, and behind them nothing that runs over time as one network."""
    size, plain = 0, ""
    for name, module in members:
        if module.ensemble and size not in (0, module.ensemble):
            raise ValueError(f"Sequential: {name} has ensemble={module.ensemble}, a member before it {size}")
        if module.ensemble and module.stepwise and plain:
            raise ValueError(f"Sequential: {name} has ensemble={module.ensemble}, but {plain} before it is one network")
        if size and not module.ensemble and not module.stepwise:
            raise ValueError(
                f"Sequential: {name} is one network, a member before it has ensemble={size}; expected the same"
            )
        size = size or module.ensemble
        plain = plain if size or module.stepwise else name


def _check_time(members: tuple[tuple[str, Module], ...]) -> None:
    """Those that run over time must agree on its axis, and none may follow one that takes it away."""
    over_time = [(name, module) for name, module in members if not module.stepwise]
    for (name, module), (other, following) in pairwise(over_time):
        if module.pools:
            raise ValueError(
                f"Sequential: {other} runs over time, which {name} has taken away; after it expected modules that take "
                "each step by itself (`stepwise`), such as polyrnn.Linear"
            )
        if module.batch_first != following.batch_first:
            raise ValueError(
                f"Sequential: {name} has batch_first={module.batch_first}, but {other} {following.batch_first}; "
                "expected one layout of all that run over time"
            )
