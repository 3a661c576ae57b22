"""Writes flax.safetensors: results of Flax' recurrent cells, of linen and nnx, in float32.

Keys are "NAME/tree/..." with the path in the cell's tree, "NAME/x" (T, N, I), the initial carry "NAME/h" and "NAME/c"
(N, H), the outputs "NAME/y" (T, N, H), the final carry "NAME/end/h" and "NAME/end/c". Weights and biases are random,
not Flax' own: its biases begin as zeros. What a case's cell is built with stands in the metadata. The cases "stack" and
"bidirectional" have a tree for each of their two cells, and states (2, N, H).
"""

import json
from pathlib import Path
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

T, N, I, H = 7, 3, 5, 11
FUNCTIONS = ["sigmoid", "tanh", "relu", "elu", "softplus", "leaky_relu", "soft_sign", "hard_sigmoid"]
CELLS = ["LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell"]

CASES: dict[str, dict[str, str]] = {f"{api}/{cell}": {} for api in ("linen", "nnx") for cell in CELLS}
CASES |= {f"nnx/SimpleCell/{name}": {"activation_fn": name} for name in FUNCTIONS}
CASES |= {
    f"{api}/{cell}/functions": {"gate_fn": "hard_sigmoid", "activation_fn": "soft_sign"}
    for api, cell in (("linen", "LSTMCell"), ("nnx", "OptimizedLSTMCell"), ("nnx", "GRUCell"), ("linen", "GRUCell"))
}


def drawn(rng: np.random.Generator, tree: Any, scale: float = 0.3) -> Any:
    """Random arrays of the tree's shapes."""
    return jax.tree.map(lambda a: np.float32(scale * rng.standard_normal(a.shape)), tree)


def paths(tree: Any) -> dict[str, np.ndarray]:
    """The leaves by their paths."""
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def cell_of(api: str, name: str, options: dict[str, str], inputs: int = I) -> tuple[Any, Any]:
    """A cell, and the tree of its parameters."""
    functions = {key: getattr(jax.nn, value) for key, value in options.items()}
    if api == "nnx":
        cell = getattr(nnx, name)(inputs, H, rngs=nnx.Rngs(0), **functions)
        return cell, nnx.to_pure_dict(nnx.state(cell, nnx.Param))
    cell, x = getattr(nn, name)(H, **functions), jnp.zeros((N, inputs))
    return cell, cell.init(jax.random.key(0), cell.initialize_carry(jax.random.key(0), x.shape), x)["params"]


def carry_of(state: dict[str, np.ndarray]) -> Any:
    """Flax' order of h and c."""
    return (state["c"], state["h"]) if "c" in state else state["h"]


def state_of(carry: Any) -> dict[str, np.ndarray]:
    """The same back."""
    return (
        {"h": np.asarray(carry[1]), "c": np.asarray(carry[0])} if isinstance(carry, tuple) else {"h": np.asarray(carry)}
    )


def run(api: str, cell: Any, tree: Any, x: np.ndarray, state: dict[str, np.ndarray]) -> tuple[Any, dict[str, Any]]:
    """All steps -> the outputs and the final state."""
    carry, outputs = carry_of(state), []
    if api == "nnx":
        nnx.update(cell, tree)
    for x_t in x:
        carry, y = cell(carry, x_t) if api == "nnx" else cell.apply({"params": tree}, carry, x_t)
        outputs.append(np.asarray(y))
    return np.stack(outputs), state_of(carry)


def inputs(rng: np.random.Generator, cell: str, *count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The input and the initial state."""
    names = ("h", "c") if "LSTM" in cell else ("h",)
    x = np.float32(rng.standard_normal((T, N, I)))
    return x, {name: np.float32(0.6 * rng.standard_normal((*count, N, H))) for name in names}


arrays: dict[str, np.ndarray] = {}


def keep(name: str, trees: Any, x: np.ndarray, state: Any, y: Any, end: Any) -> None:
    arrays.update({f"{name}/tree/{path}": leaf for path, leaf in paths(trees).items()})
    arrays.update({f"{name}/x": x, f"{name}/y": np.asarray(y)})
    arrays.update({f"{name}/{part}": np.ascontiguousarray(a) for part, a in state.items()})
    arrays.update({f"{name}/end/{part}": np.ascontiguousarray(a) for part, a in end.items()})


for name, options in CASES.items():
    rng = np.random.default_rng(list(name.encode()))
    api, kind = name.split("/")[:2]
    cell, tree = cell_of(api, kind, options)
    tree = drawn(rng, tree, 0.3 if len(name.split("/")) == 2 else 0.2)  # relu and its like would grow with time
    x, state = inputs(rng, kind)
    keep(name, tree, x, state, *run(api, cell, tree, x, state))

# Two cells, one above the other: linen's, a GRU with its second bias.
rng = np.random.default_rng(2)
x, state = inputs(rng, "GRUCell", 2)
y, trees, ends = x, {}, []
for k in range(2):
    cell, tree = cell_of("linen", "GRUCell", {}, y.shape[-1])
    trees[f"GRUCell_{k}"] = drawn(rng, tree)
    y, end = run("linen", cell, trees[f"GRUCell_{k}"], y, {"h": state["h"][k]})
    ends.append(end["h"])
keep("linen/stack", trees, x, state, y, {"h": np.stack(ends)})

# Both directions, by nnx' own layer.
both = nnx.Bidirectional(
    *(nnx.RNN(nnx.LSTMCell(I, H, rngs=nnx.Rngs(0)), time_major=True) for _ in range(2)),
    time_major=True,
    return_carry=True,
)
trees = drawn(rng, nnx.to_pure_dict(nnx.state(both, nnx.Param)))
nnx.update(both, trees)
x, state = inputs(rng, "LSTMCell", 2)
carries = tuple(carry_of({part: a[d] for part, a in state.items()}) for d in range(2))
ends, y = both(jnp.asarray(x), initial_carry=carries)
end = {part: np.stack([state_of(carry)[part] for carry in ends]) for part in state}
keep("nnx/bidirectional", trees, x, state, y, end)

about = {"flax": flax.__version__, "jax": jax.__version__, "numpy": np.__version__, "cases": CASES}
save_file(arrays, Path(__file__).with_name("flax.safetensors"), metadata={"about": json.dumps(about)})
