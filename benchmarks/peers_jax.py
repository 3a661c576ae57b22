"""Subjects under jax.jit: polyrnn with its own backward pass and without, a plain lax.scan, Flax.

All are compiled by the same function, so that what differs is what they compute.
"""

import numpy as np
from jobs import GATES, arrays, valid_lengths, weights
from workers import Prepared


class Jax:
    """A function of parameters, x and lengths under jax.jit; its gradients by jax.vjp within the same function."""

    packages = ("jax",)

    def __init__(self, threads):
        import jax

        self.jax = jax

    def parameters(self, job):
        return weights(job)

    def names(self, grads):
        """The gradients of the parameters by PyTorch's names."""
        return grads

    def prepare(self, job):
        jax = self.jax
        jax.config.update("jax_enable_x64", job.dtype == "float64")  # the jobs of one row are of one dtype
        params = jax.tree.map(jax.numpy.asarray, self.parameters(job))
        x, dy = (jax.numpy.asarray(a) for a in arrays(job))
        if job.way == "stream":
            return self.stream(job, params, x)
        apply, lengths = self.layer(job), valid_lengths(job)
        lengths = None if lengths is None else jax.numpy.asarray(lengths)

        def both(params, x, dy, lengths):
            y, pull = jax.vjp(lambda p, x: apply(p, x, lengths), params, x)
            return y, *pull(dy)

        if job.way == "forward":
            function, arguments = jax.jit(apply), (params, x, lengths)
        else:
            function, arguments = jax.jit(both), (params, x, dy, lengths)
        call = function

        def ahead():
            nonlocal call
            call = function.lower(*arguments).compile()

        def result(found):
            if job.way == "forward":
                return {"y": np.asarray(found)}
            y, grads, dx = found
            grads = {name: np.asarray(g) for name, g in self.names(grads).items()}
            return {"y": np.asarray(y), "dx": np.asarray(dx), **grads}

        return Prepared(lambda: jax.block_until_ready(call(*arguments)), result, ahead)

    def stream(self, job, params, x):
        jax = self.jax
        step, count = jax.jit(self.step(job)), 0
        zero = jax.numpy.zeros((job.N, job.H), job.dtype)
        state, inputs = (zero, zero) if job.cell == "LSTM" else zero, list(x)

        def run():
            nonlocal state, count
            y, state = jax.block_until_ready(step(params, inputs[count % job.T], state))
            count += 1
            return y

        return Prepared(run, lambda y: {"y": np.asarray(y)})


class Polyrnn(Jax):
    """polyrnn's layers, with the hand-written backward or differentiated by JAX."""

    traced = False

    def __init__(self, threads):
        super().__init__(threads)
        import polyrnn

        self.pr = polyrnn

    def made(self, job):
        kind = getattr(self.pr, job.cell)
        return kind(job.I, job.H, num_layers=job.layers, bidirectional=job.bidirectional, traced=self.traced)

    def layer(self, job):
        layer = self.made(job)
        return lambda params, x, lengths: layer(params, x, lengths=lengths)[0]

    def step(self, job):
        layer, tree = self.made(job), self.jax.tree

        def step(params, x, state):  # the layer's state has an axis of layers in front
            y, state = layer.step(params, x, tree.map(lambda s: s[None], state))
            return y, tree.map(lambda s: s[0], state)

        return step

    def prepare(self, job):
        if job.way == "job":
            import train

            return train.with_polyrnn(self.pr.backend("jax"))
        return super().prepare(job)


class Autodiff(Polyrnn):
    traced = True

    def prepare(self, job):
        return super().prepare(job) if job.way == "train" else None  # forward it is the same function


class Scan(Jax):
    """What one writes oneself: W x before the loop, one lax.scan, and jax.grad."""

    def cell(self, kind, w, suffix):
        jnp, sigmoid = self.jax.numpy, self.jax.nn.sigmoid
        U, b_ih, b_hh = (w[name + suffix] for name in ("weight_hh", "bias_ih", "bias_hh"))
        bias = b_ih if kind == "GRU" else b_ih + b_hh

        def step(state, pre):
            if kind == "RNN":
                return jnp.tanh(pre + state @ U.T)
            if kind == "LSTM":
                h, c = state
                i, f, g, o = jnp.split(pre + h @ U.T, 4, axis=-1)
                c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
                return sigmoid(o) * jnp.tanh(c), c
            (r, z, n), (hr, hz, hn) = jnp.split(pre, 3, axis=-1), jnp.split(state @ U.T + b_hh, 3, axis=-1)
            r, z = sigmoid(r + hr), sigmoid(z + hz)
            return (1 - z) * jnp.tanh(n + r * hn) + z * state

        return lambda x: x @ w["weight_ih" + suffix].T + bias, step

    def layer(self, job):
        jax, jnp = self.jax, self.jax.numpy
        zero = jnp.zeros((job.N, job.H), job.dtype)
        start = (zero, zero) if job.cell == "LSTM" else zero

        def recurrence(w, suffix, x, valid):
            project, step = self.cell(job.cell, w, suffix)

            def body(state, inputs):
                pre, mask = inputs
                moved = step(state, pre)
                if mask is not None:
                    moved = jax.tree.map(lambda new, old: jnp.where(mask, new, old), moved, state)
                h = moved[0] if job.cell == "LSTM" else moved
                return moved, h if mask is None else jnp.where(mask, h, 0)

            return jax.lax.scan(body, start, (project(x), valid), reverse=suffix.endswith("reverse"))[1]

        def apply(params, x, lengths):
            valid = None if lengths is None else (jnp.arange(job.T)[:, None] < lengths)[..., None]
            for k in range(job.layers):
                suffixes = [s for s, _ in job.inputs() if s.split("_")[1] == f"l{k}"]
                x = jnp.concatenate([recurrence(params, s, x, valid) for s in suffixes], axis=-1)
            return x

        return apply

    def step(self, job):
        def step(params, x, state):
            project, move = self.cell(job.cell, params, "_l0")
            state = move(state, project(x))
            return (state[0] if job.cell == "LSTM" else state), state

        return step


FLAX = {  # Flax' cells, and the letters of their gates in PyTorch's order
    "RNN": ("SimpleCell", ("",)),
    "LSTM": ("OptimizedLSTMCell", ("i", "f", "g", "o")),
    "GRU": ("GRUCell", ("r", "z", "n")),
}


class Flax(Jax):
    """Flax' own cells in its own RNN."""

    packages = ("jax", "flax")

    def __init__(self, threads):
        super().__init__(threads)
        import flax.linen

        self.linen = flax.linen

    def parameters(self, job):
        w, found = weights(job), {}
        for suffix, _ in job.inputs():
            W, U, b, c = (
                np.split(w[name + suffix], GATES[job.cell]) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            own: dict = {}
            for k, gate in enumerate(FLAX[job.cell][1]):
                inside = {"kernel": U[k].T}
                own[f"i{gate}"], own[f"h{gate}"] = {"kernel": W[k].T}, inside
                if job.cell == "LSTM":
                    inside["bias"] = b[k] + c[k]
                elif gate == "n":
                    own["in"]["bias"], inside["bias"] = b[k], c[k]
                else:
                    own[f"i{gate}"]["bias"] = b[k] + c[k]
            found[suffix] = own
        return found

    def names(self, grads):
        return {}  # its parameters are others: y and dx are compared

    def layer(self, job):
        cell, jnp = getattr(self.linen, FLAX[job.cell][0])(job.H, param_dtype=job.dtype), self.jax.numpy

        def apply(params, x, lengths):
            valid = None if lengths is None else (jnp.arange(job.T)[:, None] < lengths)[..., None]
            for k in range(job.layers):
                parts = []
                for suffix in [s for s in params if s.split("_")[1] == f"l{k}"]:
                    rnn = self.linen.RNN(cell, time_major=True, reverse=suffix.endswith("reverse"), keep_order=True)
                    parts.append(rnn.apply({"params": {"cell": params[suffix]}}, x, seq_lengths=lengths))
                x = jnp.concatenate(parts, axis=-1)
                x = x if valid is None else jnp.where(valid, x, 0)
            return x

        return apply

    def step(self, job):
        cell = getattr(self.linen, FLAX[job.cell][0])(job.H)

        def step(params, x, state):  # Flax' LSTM carries (c, h)
            carry = state[::-1] if job.cell == "LSTM" else state
            carry, y = cell.apply({"params": params["_l0"]}, carry, x)
            return y, carry[::-1] if job.cell == "LSTM" else carry

        return step


SUBJECTS = {"polyrnn-jax": Polyrnn, "polyrnn-jax-autodiff": Autodiff, "jax-scan": Scan, "flax": Flax}
