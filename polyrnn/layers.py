"""The recurrent layers RNN, LSTM and GRU, by PyTorch's names."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from ._door import check_flag, check_number, check_size
from ._recurrent import LayerTape, Recurrent
from .activations import activation
from .cells import (
    Cell,
    GRUCell,
    GRUResetBeforeCell,
    GRUVariantCell,
    LSTMCell,
    LSTMVariantCell,
    ProjectedLSTMCell,
    RNNCell,
    RNNVariantCell,
)
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
    nonlinearity : str or tuple
        The activation: "tanh", "relu", or another of `polyrnn.activations.ACTIVATIONS`, with constants as a tuple,
        ("leaky_relu", 0.01).
    clip : float, optional
        The argument of the activation is clipped to +-clip.
    initializer : {"pytorch", "keras", "lecun"} or initializers.Chrono
        What `init` draws: U(-1/sqrt(H), 1/sqrt(H)) for everything; Glorot, orthogonal, and 1 for an LSTM's forget bias;
        normal with variance 1 / inputs; or gate biases for long dependencies.
    learned_state : bool
        Whether the initial state is a parameter, state_h_l0 (H,) and so on, used where a call is given none.
    traced : bool
        On JAX, differentiate through the forward pass instead of using the hand-written backward; `jvp` needs it.
    input_dropout, recurrent_dropout, output_dropout : float
        Variational dropout (Gal and Ghahramani, arXiv:1512.05287), where a call is given a seed or masks: one mask for
        all steps, of each layer's input, of h_{t-1} in the recurrent products alone, and of the last layer's output.
    zoneout_h : float
        With this probability a unit of h keeps its state at a step (Krueger et al., arXiv:1606.01305); without a seed
        or masks the expected state is taken.
    remat : int or "auto"
        Keep the state every so many steps and compute the rest again in backward; "auto": sqrt(T). Less memory, about
        4/3 of the time, the same gradients. Rounded up to whole blocks of 512/N steps. 0: keep everything.
    ensemble : int
        E: so many members at once, each with parameters of its own. Parameters (E, ...), x (T, N, I) for all or
        (E, T, N, I), state (E, L*D, N, H), y (E, T, N, D*P). 0: no such axis.

    Notes
    -----
    Parameters: weight_ih_l0 (H, I), weight_hh_l0 (H, H), bias_ih_l0 and bias_hh_l0 (H,); then ..._l0_reverse, ..._l1
    and so on, where the input is D*H wide. The state is h (L*D, N, H).
    An ensemble has E in front of all of these.
    The equations and their derivatives: `polyrnn/cells/rnn.py`.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> rnn = pr.RNN(3, 5)
    >>> params = rnn.init(seed=0)
    >>> y, h = rnn(params, np.ones((7, 2, 3), dtype="float32"))
    >>> y.shape, h.shape
    ((7, 2, 5), (1, 2, 5))

    Four members on one input:

    >>> members = pr.RNN(3, 5, ensemble=4)
    >>> y, h = members(members.init(seed=0), np.ones((7, 2, 3), dtype="float32"))
    >>> y.shape, h.shape
    ((4, 7, 2, 5), (4, 1, 2, 5))
    """

    nonlinearity: str | tuple = field(default="tanh", kw_only=True)
    clip: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        activation(self.nonlinearity, "nonlinearity")
        _check_limit(self, "clip")
        super().__post_init__()

    @functools.cached_property
    def cell(self) -> Cell:
        """`polyrnn/cells/rnn.py`."""
        if self.clip is None and isinstance(self.nonlinearity, str) and self.nonlinearity in PHI:
            return RNNCell(self.nonlinearity)
        return RNNVariantCell(activation(self.nonlinearity), self.clip)


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
    peephole : bool
        Whether the gates see the cell state: i and f c_{t-1}, o c_t (Gers et al., JMLR 3, 2002).
    coupled : bool
        Whether i = 1 - f (Greff et al., arXiv:1503.04069); the gates are then f g o.
    clip, cell_clip : float, optional
        The arguments of the gates, and c_t, are clipped to +- this.
    layer_norm : bool
        Whether W x_t, U h_{t-1} and c_t are normalised (Ba et al., arXiv:1607.06450).
    activations : tuple, optional
        Of the gates i f g o and of c_t, five names, or coupled four, of f g o and of c_t: "sigmoid", "relu", or with
        constants such as ("hard_sigmoid", 0.2, 0.5); all in `polyrnn.activations.ACTIVATIONS`.
    initializer : {"pytorch", "keras", "lecun"} or initializers.Chrono
        What `init` draws: U(-1/sqrt(H), 1/sqrt(H)) for everything; Glorot, orthogonal, and 1 for an LSTM's forget bias;
        normal with variance 1 / inputs; or gate biases for long dependencies.
    learned_state : bool
        Whether the initial state is a parameter, state_h_l0 (H,) and so on, used where a call is given none.
    traced : bool
        On JAX, differentiate through the forward pass instead of using the hand-written backward; `jvp` needs it.
    input_dropout, recurrent_dropout, output_dropout : float
        Variational dropout (Gal and Ghahramani, arXiv:1512.05287), where a call is given a seed or masks: one mask for
        all steps, of each layer's input, of h_{t-1} in the recurrent products alone, and of the last layer's output.
    zoneout_h, zoneout_c : float
        With this probability a unit of h, or of c, keeps its state at a step (Krueger et al., arXiv:1606.01305);
        without a seed or masks the expected state is taken.
    remat : int or "auto"
        Keep the state every so many steps and compute the rest again in backward; "auto": sqrt(T). Less memory, about
        4/3 of the time, the same gradients. Rounded up to whole blocks of 512/N steps. 0: keep everything.
    ensemble : int
        E: so many members at once, each with parameters of its own. Parameters (E, ...), x (T, N, I) for all or
        (E, T, N, I), state (E, L*D, N, H), y (E, T, N, D*P). 0: no such axis.

    Notes
    -----
    Parameters: weight_ih_l0 (4H, I), weight_hh_l0 (4H, H), bias_ih_l0 and bias_hh_l0 (4H,); gate blocks i f g o.
    With a projection weight_hh_l0 is (4H, P), and there is weight_hr_l0 (P, H). Then ..._l0_reverse, ..._l1 and so on,
    where the input is D*P wide. The state is (h, c), (L*D, N, P) and (L*D, N, H). An ensemble has E in front of all.
    With `peephole` weight_peephole_l0 (3H,), blocks i f o. With `layer_norm` the gains weight_layer_norm_ih_l0 and
    weight_layer_norm_hh_l0 (4H,), weight_layer_norm_c_l0 (H,), at first 1, and bias_layer_norm_c_l0 (H,) if `bias`.
    With `coupled` there is no block i: 3H in place of 4H, 2H of weight_peephole_l0, blocks f o.
    The equations and their derivatives: `polyrnn/cells/lstm.py`; with such parts `polyrnn/cells/lstm_variant.py`.

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

    >>> pr.LSTM(3, 5, peephole=True, coupled=True).shapes()
    {'weight_ih_l0': (15, 3), 'weight_hh_l0': (15, 5), 'bias_ih_l0': (15,), 'bias_hh_l0': (15,),
     'weight_peephole_l0': (10,)}
    """

    peephole: bool = field(default=False, kw_only=True)
    coupled: bool = field(default=False, kw_only=True)
    clip: float | None = field(default=None, kw_only=True)
    cell_clip: float | None = field(default=None, kw_only=True)
    layer_norm: bool = field(default=False, kw_only=True)
    activations: tuple | None = field(default=None, kw_only=True)
    zoneout_c: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("peephole", "coupled", "layer_norm"):
            check_flag(name, getattr(self, name))
        _check_limit(self, "clip")
        _check_limit(self, "cell_clip")
        _check_activations(self.activations, "fgoh" if self.coupled else "ifgoh")
        super().__post_init__()

    @property
    def _zoneouts(self) -> tuple[str, ...]:
        return "zoneout_h", "zoneout_c"

    @functools.cached_property
    def cell(self) -> Cell:
        """`polyrnn/cells/lstm.py`, or with one of the parts that are added there `lstm_variant.py`."""
        options = (self.peephole, self.coupled, self.clip, self.cell_clip, self.layer_norm)
        if self.activations is None and not any(option not in (False, None) for option in options):
            return ProjectedLSTMCell(self.proj_size) if self.proj_size else LSTMCell()
        given = self.activations or ("sigmoid", "sigmoid", "tanh", "sigmoid", "tanh")[self.coupled :]
        found = tuple([activation(spec) for spec in given])
        return LSTMVariantCell(*options, found[:1] * self.coupled + found, self.proj_size)

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
    clip : float, optional
        The arguments of the gates are clipped to +-clip.
    layer_norm : bool
        Whether W x_t and U h_{t-1} are normalised, the blocks r and z together, n for itself (Ba et al.,
        arXiv:1607.06450).
    activations : tuple, optional
        Of the gates r z n, three names: "sigmoid", "relu", or with constants such as ("hard_sigmoid", 0.2, 0.5); all
        in `polyrnn.activations.ACTIVATIONS`.
    initializer : {"pytorch", "keras", "lecun"} or initializers.Chrono
        What `init` draws: U(-1/sqrt(H), 1/sqrt(H)) for everything; Glorot, orthogonal, and 1 for an LSTM's forget bias;
        normal with variance 1 / inputs; or gate biases for long dependencies.
    learned_state : bool
        Whether the initial state is a parameter, state_h_l0 (H,) and so on, used where a call is given none.
    traced : bool
        On JAX, differentiate through the forward pass instead of using the hand-written backward; `jvp` needs it.
    input_dropout, recurrent_dropout, output_dropout : float
        Variational dropout (Gal and Ghahramani, arXiv:1512.05287), where a call is given a seed or masks: one mask for
        all steps, of each layer's input, of h_{t-1} in the recurrent products alone, and of the last layer's output.
    zoneout_h : float
        With this probability a unit of h keeps its state at a step (Krueger et al., arXiv:1606.01305); without a seed
        or masks the expected state is taken.
    remat : int or "auto"
        Keep the state every so many steps and compute the rest again in backward; "auto": sqrt(T). Less memory, about
        4/3 of the time, the same gradients. Rounded up to whole blocks of 512/N steps. 0: keep everything.
    ensemble : int
        E: so many members at once, each with parameters of its own. Parameters (E, ...), x (T, N, I) for all or
        (E, T, N, I), state (E, L*D, N, H), y (E, T, N, D*P). 0: no such axis.

    Notes
    -----
    Parameters: weight_ih_l0 (3H, I), weight_hh_l0 (3H, H), bias_ih_l0 and bias_hh_l0 (3H,); gate blocks r z n.
    Then ..._l0_reverse, ..._l1 and so on, where the input is D*H wide. The state is h (L*D, N, H). An ensemble has E
    in front of all. With `layer_norm` the gains weight_layer_norm_ih_l0 and weight_layer_norm_hh_l0 (3H,), at first 1.
    The equations and their derivatives: `polyrnn/cells/gru.py`; with such parts `polyrnn/cells/gru_variant.py`.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> gru = pr.GRU(3, 5, reset_after=False)
    >>> y, h = gru(gru.init(seed=0), np.ones((7, 2, 3), dtype="float32"))
    >>> y.shape, h.shape
    ((7, 2, 5), (1, 2, 5))

    Variational dropout acts where there is a seed; zoneout without one takes the expected state:

    >>> gru = pr.GRU(3, 5, recurrent_dropout=0.3, zoneout_h=0.1)
    >>> y, h, tape = gru.forward(gru.init(seed=0), np.ones((7, 2, 3), dtype="float32"), seed=1)
    """

    reset_after: bool = field(default=True, kw_only=True)
    clip: float | None = field(default=None, kw_only=True)
    layer_norm: bool = field(default=False, kw_only=True)
    activations: tuple | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_flag("reset_after", self.reset_after)
        check_flag("layer_norm", self.layer_norm)
        _check_limit(self, "clip")
        _check_activations(self.activations, "rzn")
        super().__post_init__()

    @functools.cached_property
    def cell(self) -> Cell:
        """`polyrnn/cells/gru.py`, or with one of the parts that are added there `gru_variant.py`."""
        if self.clip is None and not self.layer_norm and self.activations is None:
            return GRUCell() if self.reset_after else GRUResetBeforeCell()
        found = tuple([activation(spec) for spec in self.activations or ("sigmoid", "sigmoid", "tanh")])
        return GRUVariantCell(self.reset_after, self.clip, self.layer_norm, found)


def _check_limit(layer: Recurrent, name: str) -> None:
    """None, or a number above zero, which becomes a Python float: NumPy's scalars would promote float32."""
    value = getattr(layer, name)
    if value is not None:
        object.__setattr__(layer, name, check_number(name, value, positive=True, also=", or None"))


def _check_activations(activations: tuple | None, gates: str) -> None:
    """None, or as many activations as there are letters."""
    if activations is None:
        return
    if not isinstance(activations, tuple) or len(activations) != len(gates):
        raise ValueError(
            f"activations={activations!r}: expected None or a tuple of {len(gates)}, for {' '.join(gates)} each one"
        )
    for gate, spec in zip(gates, activations, strict=True):
        activation(spec, f"activations, {gate}")
