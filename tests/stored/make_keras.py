"""Writes keras/: models that Keras 3 saved, and in keras/results.safetensors what they put out, in float32.

- cells.keras: one input (N, T, I) to all of CASES side by side, each layer with the case's name. Keys
  are "NAME/y", "NAME/state/0", ... for the initial states "NAME/given/0", ..., and for those of MASKED "NAME/masked/y",
  "NAME/masked/state/0", ... with the first `lengths` steps of each sequence valid; the bfloat16 layer's weights too.
- masked.weights.h5: the layers of MASKED alone, the same ones.
- nested.keras: layers in models in models, several of one class, stacked cells; "nested/y".
- own.keras: a model of somebody's own class; "own/y".

Again: python -m pip install keras==3.15.1 jax==0.10.2 h5py==3.16.0 safetensors && KERAS_BACKEND=jax python
tests/stored/make_keras.py; the arrays are the same, the archives hold the date.
"""

import json
from pathlib import Path

import h5py
import jax
import keras
import numpy as np
from keras import layers as kl
from safetensors.numpy import save_file

STEPS, BATCH, INPUTS, HIDDEN = 5, 2, 3, 7
FOLDER = Path(__file__).with_name("keras")
ACTIVATIONS = ["tanh", "sigmoid", "relu", "hard_sigmoid", "softsign", "softplus", "elu", "leaky_relu", "linear"]
LSTM, GRU, RNN = (
    lambda units=HIDDEN, make=make, **options: make(units, return_sequences=True, return_state=True, **options)
    for make in (kl.LSTM, kl.GRU, kl.SimpleRNN)
)
OTHER = {"activation": "softsign", "recurrent_activation": "hard_sigmoid"}

CASES = {
    "lstm": LSTM(),
    "lstm_no_bias": LSTM(use_bias=False),
    "lstm_activations": LSTM(**OTHER),
    "lstm_leaky": LSTM(activation=kl.LeakyReLU(negative_slope=0.3), recurrent_activation="softsign"),
    "lstm_both": kl.Bidirectional(LSTM()),
    "lstm_both_activations": kl.Bidirectional(LSTM(use_bias=False, **OTHER)),
    "gru": GRU(),
    "gru_no_bias": GRU(use_bias=False),
    "gru_activations": GRU(**OTHER),
    "gru_elu": GRU(activation=kl.ELU(alpha=0.7)),
    "gru_both": kl.Bidirectional(GRU()),
    "gru_before": GRU(reset_after=False),
    "gru_before_no_bias": GRU(reset_after=False, use_bias=False),
    "gru_before_activations": GRU(reset_after=False, **OTHER),
    "gru_before_both": kl.Bidirectional(GRU(reset_after=False)),
    "rnn": RNN(),
    "rnn_no_bias": RNN(use_bias=False),
    "rnn_both": kl.Bidirectional(RNN()),
    "rnn_of_cell": kl.RNN(kl.GRUCell(HIDDEN), return_sequences=True, return_state=True),
    "rnn_dropout": RNN(dropout=0.3, recurrent_dropout=0.3, unroll=True),
    **{f"rnn_{name}": RNN(units=2, activation=name) for name in ACTIVATIONS},
}
MASKED = ["lstm", "lstm_both", "gru", "gru_both", "gru_before", "gru_before_both", "rnn", "rnn_both"]


@keras.saving.register_keras_serializable("somebody")
class OwnLSTM(kl.LSTM):
    """A layer that has another name than Keras' and does the same."""


@keras.saving.register_keras_serializable("somebody")
class Own(keras.Model):
    """A model whose config does not tell of its layers."""

    def __init__(self, **options):
        super().__init__(**options)
        self.encoder = kl.Bidirectional(kl.GRU(HIDDEN, return_sequences=True), name="reads")
        self.decoder = OwnLSTM(5, name="writes")

    def call(self, x):
        return self.decoder(self.encoder(x))


def nested():
    """Layers of one class, in a Sequential in a functional model; cells in a stack; a layer in a layer."""
    options = {"return_sequences": True}
    inner = keras.Sequential(
        [
            kl.Input((STEPS, INPUTS)),
            kl.LSTM(HIDDEN, name="below", **options),
            kl.LSTM(HIDDEN, name="above", **options),
            kl.Dense(3),
            kl.LSTM(2, name="top", **options),
        ],
        name="encoder",
    )
    x = kl.Input((STEPS, INPUTS), name="x")
    y = kl.RNN([kl.GRUCell(HIDDEN), kl.GRUCell(HIDDEN)], name="cells", **options)(inner(x))
    y = kl.Bidirectional(kl.LSTM(HIDDEN, **options), name="two_ways")(y)
    y = kl.TimeDistributed(kl.SimpleRNN(5, name="inside"), name="slices")(kl.Reshape((STEPS, 2, HIDDEN))(y))
    return keras.Model(x, kl.Lambda(lambda y: y * 1.0, name="not_run")(kl.GRU(2, name="last")(y)), name="nested")


def randomise(model, seed):
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        variable.assign(0.5 * rng.standard_normal(variable.shape))


rng = np.random.default_rng(7)
FOLDER.mkdir(exist_ok=True)
x = np.float32(rng.standard_normal((BATCH, STEPS, INPUTS)))
lengths = np.array([3, 5])
arrays = {"x": x, "lengths": lengths}

given = kl.Input((STEPS, INPUTS), name="x")
for name, layer in CASES.items():
    layer.name = name
brain = kl.SimpleRNN(2, dtype="bfloat16", name="bfloat16", recurrent_initializer="glorot_uniform")
cells = keras.Model(given, [layer(given)[0] for layer in CASES.values()] + [brain(given)], name="cells")
randomise(cells, 1)
cells.save(FOLDER / "cells.keras")
keras.Model(given, [CASES[name](given)[0] for name in MASKED]).save_weights(FOLDER / "masked.weights.h5")
for name, layer in CASES.items():
    states = [np.float32(rng.standard_normal(s.shape)) for s in layer(x)[1:]]
    arrays |= {f"{name}/given/{k}": state for k, state in enumerate(states)}
    y, *last = layer(x, initial_state=states)
    arrays |= {f"{name}/y": y, **{f"{name}/state/{k}": state for k, state in enumerate(last)}}
    if name in MASKED:
        y, *last = layer(x, initial_state=states, mask=np.arange(STEPS) < lengths[:, None])
        arrays |= {f"{name}/masked/y": y, **{f"{name}/masked/state/{k}": state for k, state in enumerate(last)}}
arrays |= {f"bfloat16/{k}": np.float32(w) for k, w in enumerate(brain.get_weights())}

for name, model in {"nested": nested(), "own": Own(name="own")}.items():
    model(x)
    randomise(model, 2)
    model.save(FOLDER / f"{name}.keras")
    arrays[f"{name}/y"] = model(x)

about = {module.__name__: module.__version__ for module in (keras, jax, h5py, np)}
about |= {"backend": keras.backend.backend(), "cases": list(CASES), "masked": MASKED}
stored = {key: np.ascontiguousarray(a) for key, a in arrays.items()}
save_file(stored, FOLDER / "results.safetensors", metadata={"about": json.dumps(about)})
