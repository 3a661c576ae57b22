"""Writes equinox.safetensors: results of Equinox' cells, and of jax.experimental.rnn's reference LSTM, in float32.

Keys of Equinox' are "NAME/tree/..." with the cell's fields, "NAME/x" (T, N, I), the initial state "NAME/h", "NAME/c"
(N, H), the outputs "NAME/y" (T, N, H) and the final state "NAME/end/h", "NAME/end/c".

Those of jax.experimental.rnn are "NAME/weights", the flat vector, "NAME/x" (N, T, I), "NAME/h", "NAME/c" (L*D, N, H),
and what `lstm_ref` makes of the vector as `unpack_lstm_weights` cuts it: the same module's statement, in JAX' own
operations, of what cuDNN computes, for machines without a GPU.
"""

import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import rnn
from safetensors.numpy import save_file

T, N, I, H = 7, 3, 5, 11
CELLS = {
    f"{cell}{'' if bias else '/no_bias'}": (cell, bias) for cell in ("LSTMCell", "GRUCell") for bias in (True, False)
}
VECTORS = {"jax_rnn/one": (1, False), "jax_rnn/deep": (3, False), "jax_rnn/both": (2, True)}

arrays: dict[str, np.ndarray] = {}


def keep(name: str, given: dict[str, Any]) -> None:
    arrays.update({f"{name}/{key}": np.ascontiguousarray(a) for key, a in given.items()})


for name, (kind, bias) in CELLS.items():
    rng = np.random.default_rng(list(name.encode()))
    cell = getattr(eqx.nn, kind)(I, H, use_bias=bias, key=jax.random.key(0))
    cell = jax.tree.map(lambda a, rng=rng: jnp.float32(0.3 * rng.standard_normal(a.shape)), cell)
    parts = ("h", "c") if kind == "LSTMCell" else ("h",)
    state = {part: np.float32(0.6 * rng.standard_normal((N, H))) for part in parts}
    x = np.float32(rng.standard_normal((T, N, I)))
    carry, y = tuple(state.values()) if len(state) > 1 else state["h"], []
    for x_t in x:
        carry = jax.vmap(cell)(x_t, carry)
        y.append(carry[0] if len(state) > 1 else carry)
    end = dict(zip(parts, carry, strict=True)) if len(state) > 1 else {"h": carry}
    fields = ("weight_ih", "weight_hh", "bias", "bias_n")
    keep(f"{name}/tree", {key: getattr(cell, key) for key in fields if getattr(cell, key, None) is not None})
    keep(name, {"x": x, "y": np.stack(y), **state})
    keep(f"{name}/end", end)

for name, (layers, both) in VECTORS.items():
    rng = np.random.default_rng(list(name.encode()))
    sizes = (I, H, layers, both)
    weights = np.float32(0.2 * rng.standard_normal(rnn.get_num_params_in_lstm(*sizes)))
    x = np.float32(rng.standard_normal((N, T, I)))
    h, c = np.float32(0.6 * rng.standard_normal((2, layers * (1 + both), N, H)))
    parts = rnn.unpack_lstm_weights(jnp.asarray(weights), *sizes)
    y, end_h, end_c = rnn.lstm_ref(x, h, c, *parts, jnp.full(N, T, jnp.int32), *sizes[:3], 0.0, both)
    keep(name, {"weights": weights, "x": x, "h": h, "c": c, "y": y, "end/h": end_h, "end/c": end_c})

about = {"equinox": eqx.__version__, "jax": jax.__version__, "numpy": np.__version__}
about |= {"cells": CELLS, "vectors": VECTORS}
save_file(arrays, Path(__file__).with_name("equinox.safetensors"), metadata={"about": json.dumps(about)})
