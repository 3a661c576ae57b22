"""The cells: one file each, with the equations, the parameters, the step and its derivative, in that order."""

from ._cell import Cell, Expected, Held, blocks, over_steps, over_steps_and_examples
from .gru import GRUCell, GRUResetBeforeCell
from .gru_variant import GRUVariantCell
from .lstm import LSTMCell, ProjectedLSTMCell
from .lstm_variant import LSTMVariantCell
from .rnn import RNNCell, RNNVariantCell

__all__ = [
    "Cell",
    "Expected",
    "GRUCell",
    "GRUResetBeforeCell",
    "GRUVariantCell",
    "Held",
    "LSTMCell",
    "LSTMVariantCell",
    "ProjectedLSTMCell",
    "RNNCell",
    "RNNVariantCell",
    "blocks",
    "over_steps",
    "over_steps_and_examples",
]
