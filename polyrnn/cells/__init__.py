"""The cells: one file each, with the equations, the parameters, the step and its derivative, in that order."""

from ._cell import Cell, Masked, blocks, over_steps
from .gru import GRUCell, GRUResetBeforeCell
from .lstm import LSTMCell, ProjectedLSTMCell
from .rnn import RNNCell

__all__ = [
    "Cell",
    "GRUCell",
    "GRUResetBeforeCell",
    "LSTMCell",
    "Masked",
    "ProjectedLSTMCell",
    "RNNCell",
    "blocks",
    "over_steps",
]
