"""Writes torch.safetensors: what PyTorch computes in float64 for fixed, random, asymmetric inputs.

Keys are "case/array", such as "lstm/bias/lengths/dy"; gradients stand under "case/grad/".  States have
PyTorch's layout (1, N, H).  The metadata's one entry, "about", is JSON: the versions and each case's options
(one entry, because safetensors writes several in no fixed order).
"""

import json
from itertools import product
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch.nn.functional import cross_entropy, embedding, linear, mse_loss
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

SIZES = [(7, 3, 5, 11), (11, 5, 3, 7), (5, 3, 2, 7), (7, 5, 2, 3)]  # T, N, I, H
CELLS = {
    "rnn_tanh": (torch.nn.RNN, {"nonlinearity": "tanh"}),
    "rnn_relu": (torch.nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (torch.nn.LSTM, {}),
    "gru": (torch.nn.GRU, {}),
}
OPTIMIZERS = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd_momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "sgd_nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "sgd_decay": ("SGD", {"lr": 0.1, "momentum": 0.7, "weight_decay": 0.03}),
    "sgd_nesterov_decay": ("SGD", {"lr": 0.1, "momentum": 0.7, "nesterov": True, "weight_decay": 0.03}),
    "adam": ("Adam", {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3}),
    "adam_default": ("Adam", {"lr": 0.001}),
    "adam_decay": ("Adam", {"lr": 0.02, "weight_decay": 0.03}),
    "adamw": ("AdamW", {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3}),
    "adamw_default": ("AdamW", {"lr": 0.001}),
    "rmsprop": ("RMSprop", {"lr": 0.02, "alpha": 0.9, "eps": 1e-3, "momentum": 0.0, "centered": False}),
    "rmsprop_default": ("RMSprop", {"lr": 0.01}),
    "rmsprop_decay": ("RMSprop", {"lr": 0.02, "alpha": 0.9, "weight_decay": 0.03}),
}
CLIPS = {"clip/above": 1.5, "clip/below": 50.0}  # max_norm; the norm is about 5

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
arrays: dict[str, np.ndarray] = {}
options: dict[str, dict] = {}


def normal(rng, *shape, scale=1.0):
    """A random leaf tensor."""
    return torch.tensor(scale * rng.standard_normal(shape), requires_grad=True)


def store(name, gradients_of=(), **tensors):
    """Keep ``tensors`` under ``name``, and the gradients of those named in ``gradients_of``."""
    for key, value in tensors.items():
        arrays[f"{name}/{key}"] = torch.as_tensor(value).detach().numpy().copy()  # in C order
    for key in gradients_of:
        arrays[f"{name}/grad/{key}"] = tensors[key].grad.numpy().copy()


def recurrent(seed, cell, bias, with_lengths):
    """One layer, one direction, with separate upstream gradients for y and each final state."""
    rng = np.random.default_rng(seed)
    steps, batch, inputs, hidden = SIZES[seed % len(SIZES)]
    make, extra = CELLS[cell]
    layer = make(inputs, hidden, bias=bias, **extra)
    params = dict(layer.named_parameters())
    with torch.no_grad():
        for p in params.values():
            p.copy_(normal(rng, *p.shape, scale=0.5))
    x = normal(rng, steps, batch, inputs)
    states = {k: normal(rng, 1, batch, hidden) for k in (("h0", "c0") if cell == "lstm" else ("h0",))}
    state = (states["h0"], states["c0"]) if cell == "lstm" else states["h0"]
    tensors = {**params, "x": x, **states}
    leaves = list(tensors)
    if with_lengths:  # in no order, the whole length and 1 among them; x and dy are random in the padding too
        lengths = torch.tensor([*rng.integers(2, steps, batch - 2), steps, 1])
        packed, final = layer(pack_padded_sequence(x, lengths, enforce_sorted=False), state)
        y, _ = pad_packed_sequence(packed, total_length=steps)
        tensors["lengths"] = lengths
    else:
        y, final = layer(x, state)
    results = {"y": y, **dict(zip(("h", "c"), final if cell == "lstm" else (final,), strict=False))}
    upstream = {"d" + k: normal(rng, *v.shape).detach() for k, v in results.items()}
    torch.autograd.backward(list(results.values()), list(upstream.values()))
    name = f"{cell}/{'bias' if bias else 'nobias'}/{'lengths' if with_lengths else 'full'}"
    store(name, leaves, **tensors, **results, **upstream)
    options[name] = {"cell": make.__name__.lower(), "bias": bias, "lengths": with_lengths, **extra}


def losses(rng):
    """Cross-entropy and mean squared error, with and without a mask."""
    mask = torch.tensor(rng.random((5, 3)) < 0.6)
    labels = torch.tensor(rng.integers(0, 7, (5, 3)))
    offset = torch.tensor(1000.0 * rng.standard_normal((5, 3, 1)))  # a naive exp overflows
    values = 3.0 * rng.standard_normal((5, 3, 7))
    for name in ("cross_entropy/all", "cross_entropy/mask"):
        logits = (torch.tensor(values) + offset).requires_grad_()
        kept = labels if name.endswith("all") else torch.where(mask, labels, -100)
        value = cross_entropy(logits.reshape(-1, 7), kept.reshape(-1), ignore_index=-100)
        value.backward()
        store(name, ["logits"], logits=logits, labels=labels, mask=mask, value=value)
    values, target = rng.standard_normal((5, 3, 2)), normal(rng, 5, 3, 2).detach()
    for name in ("mse/all", "mse/mask"):
        prediction = torch.tensor(values, requires_grad=True)
        kept = torch.ones_like(mask) if name.endswith("all") else mask
        value = mse_loss(prediction[kept], target[kept])
        value.backward()
        store(name, ["prediction"], prediction=prediction, target=target, mask=mask, value=value)


def optimizers(rng):
    """Parameters after each of five steps on fixed gradients."""
    start, gradients = rng.standard_normal((5, 3)), rng.standard_normal((5, 5, 3))
    for name, (optimizer, settings) in OPTIMIZERS.items():
        p, history = torch.tensor(start, requires_grad=True), []
        opt = getattr(torch.optim, optimizer)([p], **settings)
        for g in gradients:
            p.grad = torch.tensor(g)
            opt.step()
            history.append(p.detach().clone())
        store(f"optimizer/{name}", p0=start, gradients=gradients, p=torch.stack(history))
        options[f"optimizer/{name}"] = {"optimizer": optimizer, "settings": settings}


def clipping(rng):
    """clip_grad_norm_ on two arrays, with a norm above the limit and one below it."""
    gradients = {"a": rng.standard_normal((5, 3)), "b": rng.standard_normal(7)}
    for name, max_norm in CLIPS.items():
        leaves = [torch.zeros(g.shape, requires_grad=True) for g in gradients.values()]
        for leaf, g in zip(leaves, gradients.values(), strict=True):
            leaf.grad = torch.tensor(g)
        norm = torch.nn.utils.clip_grad_norm_(leaves, max_norm)
        clipped = {f"clipped_{k}": leaf.grad for k, leaf in zip(gradients, leaves, strict=True)}
        store(name, **gradients, **clipped, norm=norm)
        options[name] = {"max_norm": max_norm}


def modules(rng):
    """Embedding (ids repeat, one row is never used) and Linear, with and without bias."""
    weight, dy = normal(rng, 7, 2), normal(rng, 5, 3, 2).detach()
    ids = torch.tensor(rng.integers(0, 6, (5, 3)))
    y = embedding(ids, weight)
    y.backward(dy)
    store("embedding", ["weight"], ids=ids, weight=weight, y=y, dy=dy)
    for name in ("linear/bias", "linear/nobias"):
        leaves = {"x": normal(rng, 5, 3, 2), "weight": normal(rng, 7, 2)}
        leaves |= {"bias": normal(rng, 7)} if name == "linear/bias" else {}
        y, dy = linear(*leaves.values()), normal(rng, 5, 3, 7).detach()
        y.backward(dy)
        store(name, list(leaves), **leaves, y=y, dy=dy)


for seed, (cell, bias, with_lengths) in enumerate(product(CELLS, (True, False), (False, True))):
    recurrent(seed, cell, bias, with_lengths)
for seed, part in enumerate((losses, optimizers, clipping, modules), start=100):
    part(np.random.default_rng(seed))
about = {"torch": torch.__version__, "numpy": np.__version__, "options": options}
save_file(arrays, Path(__file__).with_name("torch.safetensors"), {"about": json.dumps(about)})
