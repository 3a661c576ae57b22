"""Writes torch_layer_norm.safetensors: layers with layer normalisation, built of PyTorch's parts, and their gradients.

PyTorch has no such recurrent layer; these few lines say what theirs would be, with `torch.nn.functional.layer_norm` for
the normalisation and autograd for the gradients, in float64. Keys are "NAME/x", "NAME/weight_ih_l0", "NAME/h",
"NAME/y", "NAME/end/h", "NAME/dy", "NAME/dend/h", "NAME/grad/x" and so on; lengths do not occur.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch.nn.functional import layer_norm

T, N, I, H, P = 5, 3, 2, 7, 4
CASES = {
    "lstm": {"peephole": False, "proj_size": 0},
    "lstm/everything": {"peephole": True, "proj_size": P},
    "gru": {"reset_after": True},
    "gru/before": {"reset_after": False},
}


def norm(a: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """Over the last axis, the rows."""
    return layer_norm(a, a.shape[-1:], weight=gain)


def lstm(p: dict, o: dict, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple:
    bias = p["bias_ih_l0"] + p["bias_hh_l0"]
    y = []
    for x_t in x:
        a = norm(x_t @ p["weight_ih_l0"].T, p["weight_layer_norm_ih_l0"])
        a = a + norm(h @ p["weight_hh_l0"].T, p["weight_layer_norm_hh_l0"]) + bias
        i, f, g, out = a.chunk(4, dim=-1)
        if o["peephole"]:
            p_i, p_f, p_o = p["weight_peephole_l0"].chunk(3)
            i, f = i + p_i * c, f + p_f * c
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        out = out + p_o * c if o["peephole"] else out
        inner = layer_norm(c, c.shape[-1:], p["weight_layer_norm_c_l0"], p["bias_layer_norm_c_l0"])
        h = torch.sigmoid(out) * torch.tanh(inner)
        h = h @ p["weight_hr_l0"].T if o["proj_size"] else h
        y.append(h)
    return torch.stack(y), h, c


def gru(p: dict, o: dict, x: torch.Tensor, h: torch.Tensor) -> tuple:
    rz, n = slice(0, 2 * H), slice(2 * H, 3 * H)
    W, U, b, d, gain_x, gain_h = (
        p[name + "_l0"]
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_layer_norm_ih", "weight_layer_norm_hh")
    )
    y = []
    for x_t in x:
        both = norm(x_t @ W[rz].T, gain_x[rz]) + b[rz] + norm(h @ U[rz].T, gain_h[rz]) + d[rz]
        r, z = torch.sigmoid(both).chunk(2, dim=-1)
        inner = norm(h @ U[n].T, gain_h[n]) + d[n] if o["reset_after"] else norm((r * h) @ U[n].T, gain_h[n]) + d[n]
        new = torch.tanh(norm(x_t @ W[n].T, gain_x[n]) + b[n] + (r * inner if o["reset_after"] else inner))
        h = (1 - z) * new + z * h
        y.append(h)
    return torch.stack(y), h


torch.set_num_threads(1)
arrays: dict[str, np.ndarray] = {}
for name, options in CASES.items():
    rng, kind = np.random.default_rng(list(name.encode())), name.split("/")[0]
    rows, out = {"lstm": 4, "gru": 3}[kind] * H, options.get("proj_size") or H
    shapes = {"weight_ih_l0": (rows, I), "weight_hh_l0": (rows, out), "bias_ih_l0": (rows,), "bias_hh_l0": (rows,)}
    shapes |= {"weight_layer_norm_ih_l0": (rows,), "weight_layer_norm_hh_l0": (rows,)}
    if kind == "lstm":
        shapes |= {"weight_layer_norm_c_l0": (H,), "bias_layer_norm_c_l0": (H,)}
        shapes |= {"weight_peephole_l0": (3 * H,)} if options["peephole"] else {}
        shapes |= {"weight_hr_l0": (out, H)} if options["proj_size"] else {}
    given = {key: 0.5 * rng.standard_normal(s) + ("weight_layer_norm" in key) for key, s in shapes.items()}
    sizes = {"h": (N, out)} | ({"c": (N, H)} if kind == "lstm" else {})
    given |= {"x": rng.standard_normal((T, N, I))} | {key: rng.standard_normal(s) for key, s in sizes.items()}
    above = {"dy": rng.standard_normal((T, N, out))} | {f"dend/{k}": rng.standard_normal(s) for k, s in sizes.items()}
    leaves = {key: torch.tensor(value, requires_grad=True) for key, value in given.items()}
    params = {key: value for key, value in leaves.items() if key in shapes}
    found = {"lstm": lstm, "gru": gru}[kind](params, options, leaves["x"], *(leaves[key] for key in sizes))
    sum((part * torch.tensor(d)).sum() for part, d in zip(found, above.values(), strict=True)).backward()
    results = dict(zip(["y", *(f"end/{key}" for key in sizes)], found, strict=True))
    results |= {f"grad/{key}": value.grad for key, value in leaves.items()}
    everything = given | above | {key: value.detach().numpy().copy() for key, value in results.items()}
    arrays |= {f"{name}/{key}": value for key, value in everything.items()}
about = {"torch": torch.__version__, "numpy": np.__version__, "options": CASES}
save_file(arrays, Path(__file__).with_name("torch_layer_norm.safetensors"), metadata={"about": json.dumps(about)})
