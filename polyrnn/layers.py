"""The recurrent layers RNN, LSTM and GRU, by PyTorch's names."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from ._door import check_flag, check_size
from ._recurrent import LayerTape, Recurrent
from .cells import Cell, GRUCell, GRUResetBeforeCell, LSTMCell, ProjectedLSTMCell, RNNCell
from .cells.rnn import PHI

__all__ = ["GRU", "LSTM", "RNN", "LayerTape", "Recurrent"]


@dataclass(frozen=True)
class RNN(Recurrent):
    """The simple recurrent layer, as torch.nn.RNN: h_t = tanh(W x_t + b_ih + U h_{t-1} + b_hh).

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int
        L: layers one above the other.
    bias : bool
        Whether there are b_ih and b_hh.
    batch_first : bool
        Whether x and y are (N, T, ·) in place of (T, N, ·); states are not concerned.
    dropout : float
        Between the layers, where a call is given a seed: an output is dropped with this probability, else divided by
        1 - dropout.
    bidirectional : bool
        Whether a second direction runs from the end; its outputs stand after the first's.
    proj_size : 0
        Only an LSTM has a projection.
    nonlinearity : {"tanh", "relu"}
        The activation.
    initializer : {"pytorch", "keras", "lecun"} or initializers.Chrono
        What `init` draws: U(-1/sqrt(H), 1/sqrt(H)) for everything; Glorot, orthogonal, and 1 for an LSTM's forget bias;
        normal with variance 1 / inputs; or gate biases for long dependencies.
    learned_state : bool
        Whether the initial state is a parameter, state_h_l0 (H,) and so on, used where a call is given none.
    traced : bool
        On JAX, differentiate through the forward pass instead of using the hand-written backward; `jvp` needs it.

    Notes
    -----
    Parameters: weight_ih_l0 (H, I), weight_hh_l0 (H, H), bias_ih_l0 and bias_hh_l0 (H,); then ..._l0_reverse, ..._l1
    and so on, where the input is D*H wide. The state is h (L*D, N, H).
    The equations and their derivatives: `polyrnn/cells/rnn.py`.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> rnn = pr.RNN(3, 5)
    >>> params = rnn.init(seed=0)
    >>> y, h = rnn(params, np.ones((7, 2, 3), dtype="float32"))
    >>> y.shape, h.shape
    ((7, 2, 5), (1, 2, 5))
    """

    nonlinearity: str = field(default="tanh", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.nonlinearity, str) or self.nonlinearity not in PHI:
            raise ValueError(f"nonlinearity={self.nonlinearity!r}; expected one of {', '.join(map(repr, PHI))}")

    @functools.cached_property
    def cell(self) -> Cell:
        """`polyrnn/cells/rnn.py`."""
        return RNNCell(self.nonlinearity)


@dataclass(frozen=True)
class LSTM(Recurrent):
    """The long short-term memory layer, as torch.nn.LSTM.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int
        L: layers one above the other.
    bias : bool
        Whether there are b_ih and b_hh.
    batch_first : bool
        Whether x and y are (N, T, ·) in place of (T, N, ·); states are not concerned.
    dropout : float
        Between the layers, where a call is given a seed: an output is dropped with this probability, else divided by
        1 - dropout.
    bidirectional : bool
        Whether a second direction runs from the end; its outputs stand after the first's.
    proj_size : int
        P: if not 0, h_t = R m_t is of this size, smaller than H.
    initializer : {"pytorch", "keras", "lecun"} or initializers.Chrono
        What `init` draws: U(-1/sqrt(H), 1/sqrt(H)) for everything; Glorot, orthogonal, and 1 for an LSTM's forget bias;
        normal with variance 1 / inputs; or gate biases for long dependencies.
    learned_state : bool
        Whether the initial state is a parameter, state_h_l0 (H,) and so on, used where a call is given none.
    traced : bool
        On JAX, differentiate through the forward pass instead of using the hand-written backward; `jvp` needs it.

    Notes
    -----
    Parameters: weight_ih_l0 (4H, I), weight_hh_l0 (4H, H), bias_ih_l0 and bias_hh_l0 (4H,); gate blocks i f g o.
    With a projection weight_hh_l0 is (4H, P), and there is weight_hr_l0 (P, H). Then ..._l0_reverse, ..._l1 and so on,
    where the input is D*P wide. The state is (h, c), (L*D, N, P) and (L*D, N, H).
    The equations and their derivatives: `polyrnn/cells/lstm.py`.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> lstm = pr.LSTM(3, 5)
    >>> params = lstm.init(seed=0)
    >>> x = np.ones((7, 2, 3), dtype="float32")
    >>> y, (h, c), tape = lstm.forward(params, x, lengths=[7, 4])
    >>> grads = lstm.backward(tape, dy=np.ones_like(y))
    >>> grads.x.shape, grads.params["weight_ih_l0"].shape
    ((7, 2, 3), (20, 3))
    """

    @functools.cached_property
    def cell(self) -> Cell:
        """`polyrnn/cells/lstm.py`."""
        return ProjectedLSTMCell(self.proj_size) if self.proj_size else LSTMCell()

    def _check_projection(self) -> None:
        check_size("proj_size", self.proj_size, least=0)
        if self.proj_size >= self.hidden_size:
            raise ValueError(f"proj_size={self.proj_size}: expected less than hidden_size={self.hidden_size}, or 0")


@dataclass(frozen=True)
class GRU(Recurrent):
    """The gated recurrent unit, as torch.nn.GRU.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int
        L: layers one above the other.
    bias : bool
        Whether there are b_ih and b_hh.
    batch_first : bool
        Whether x and y are (N, T, ·) in place of (T, N, ·); states are not concerned.
    dropout : float
        Between the layers, where a call is given a seed: an output is dropped with this probability, else divided by
        1 - dropout.
    bidirectional : bool
        Whether a second direction runs from the end; its outputs stand after the first's.
    proj_size : 0
        Only an LSTM has a projection.
    reset_after : bool
        Where the reset gate acts: after the recurrent product (PyTorch, cuDNN, Keras' default) or before it (the
        paper, ONNX' default).
    initializer : {"pytorch", "keras", "lecun"} or initializers.Chrono
        What `init` draws: U(-1/sqrt(H), 1/sqrt(H)) for everything; Glorot, orthogonal, and 1 for an LSTM's forget bias;
        normal with variance 1 / inputs; or gate biases for long dependencies.
    learned_state : bool
        Whether the initial state is a parameter, state_h_l0 (H,) and so on, used where a call is given none.
    traced : bool
        On JAX, differentiate through the forward pass instead of using the hand-written backward; `jvp` needs it.

    Notes
    -----
    Parameters: weight_ih_l0 (3H, I), weight_hh_l0 (3H, H), bias_ih_l0 and bias_hh_l0 (3H,); gate blocks r z n.
    Then ..._l0_reverse, ..._l1 and so on, where the input is D*H wide. The state is h (L*D, N, H).
    The equations and their derivatives: `polyrnn/cells/gru.py`.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> gru = pr.GRU(3, 5, reset_after=False)
    >>> y, h = gru(gru.init(seed=0), np.ones((7, 2, 3), dtype="float32"))
    >>> y.shape, h.shape
    ((7, 2, 5), (1, 2, 5))
    """

    reset_after: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("reset_after", self.reset_after)

    @functools.cached_property
    def cell(self) -> Cell:
        """`polyrnn/cells/gru.py`."""
        return GRUCell() if self.reset_after else GRUResetBeforeCell()
