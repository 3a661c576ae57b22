"""Recurrent networks whose mathematics is written once and runs on NumPy, CuPy and JAX."""

from .backends import Backend, BackendUnavailable, available_backends, backend, backend_of
from .functional import (
    gru_backward,
    gru_cell_backward,
    gru_cell_forward,
    gru_forward,
    lstm_backward,
    lstm_cell_backward,
    lstm_cell_forward,
    lstm_forward,
    rnn_backward,
    rnn_cell_backward,
    rnn_cell_forward,
    rnn_forward,
    sigmoid,
    softmax,
)
from .layers import GRU, LSTM, RNN
from .modules import Dropout, Embedding, Gradients, Linear, Module, Sequential

__version__ = "0.1.0"
