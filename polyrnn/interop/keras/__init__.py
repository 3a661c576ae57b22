"""Recurrent layers of Keras 3: out of .keras and .weights.h5 files and live models, and into them.

LSTM, GRU with `reset_after` True or False, SimpleRNN, RNN of their cells (stacked ones too, as one layer of several
`num_layers`), and Bidirectional of each with merge_mode "concat". Keras need not be installed; h5py only to
write files. Only Keras 3: the older .h5 files are refused, and can be loaded there and saved again.

- Keras' kernel (I, G*H) and recurrent_kernel (H, G*H) are transposed; its gate blocks are i f c o in an LSTM, which is
  polyrnn's order, and z r h in a GRU, where polyrnn has r z n.
- Keras has one bias, but a GRU with reset after two, as the rows of (2, 3*H). The one becomes `bias_ih`, and `bias_hh`
  is zero. The way back adds the two, and by the equations nothing else changes: with reset before, too, both always
  stand in one sum. After it `bias_hh` is zero again: the layer is the same, the parameters are shared out anew.
- Keras' sequences are (N, T, I): the layers have batch_first=True. Its states are [h, c], each (N, H), and of both
  directions [h, c, h, c]; polyrnn's are (h, c), each (D, N, H). Without return_sequences its output is `y[:, -1]` of
  the first direction and `y[:, 0]` of the second.
- Activations are taken from the config: tanh, sigmoid, relu, hard_sigmoid (Keras 3's, clip(x / 6 + 0.5, 0, 1)),
  softsign, softplus, elu, leaky_relu (0.2), linear. Others are refused, as are other merge modes, and go_backwards
  outside of Bidirectional: reverse x instead.
- return_sequences, return_state, stateful, unroll and zero_output_for_mask do not change what the parameters are.
  Dropout is not taken over.
- A .weights.h5 has no config: kinds are told by the shapes; that layers run forwards, that two directions are
  concatenated, and the activations, `find`'s arguments, are assumed. So it is with layers inside a model of somebody's
  own class; a layer of somebody's own class is read as its arrays and config look.
- Files are read without HDF5's library, which loops for ever on some damaged ones. Nothing is run or unpickled, no link
  followed, and no more read than the file has; an archive may unpack to 100 times its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._converted import Converted, only
from ._convert import Assumed, convert, stacked
from ._sources import found_in
from ._write import dump, save

__all__ = ["dump", "find", "load", "save"]


def find(
    source: Any,
    *,
    activation: Any = "tanh",
    recurrent_activation: Any = "sigmoid",
    reset_after: bool = True,
    allow_nan: bool = False,
) -> dict[str, Converted]:
    """All recurrent layers of a model.

    Parameters
    ----------
    source : path, Keras layer or model, list or dict
        A .keras or .weights.h5 file; anything that looks like a layer of Keras 3's; or arrays as `get_weights` returns
        them: of one layer, a list of those of several, or a dict of those by name.
    activation, recurrent_activation : str or tuple
        Where no config tells: a name of Keras', or as polyrnn has it with constants, ("leaky_relu", 0.1).
    reset_after : bool
        Of a GRU without config and without bias; with a bias its shape tells.
    allow_nan : bool
        Whether numbers may be infinite or NaN.

    Returns
    -------
    dict of str to Converted
        By the layers' names, inside another model "encoder/lstm"; arrays in a list are "layer", "layer_1", ... The
        parameters have the dtype that is stored, for bfloat16 float32.

    Raises
    ------
    ValueError
        If the file is damaged, claims more than it holds, links elsewhere, or is not of this format; or if a layer is
        one that polyrnn has not. The file, the layer and the array are named.
    OSError
        If there is no such file, or it cannot be read.
    TypeError
        If the source is something else.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> arrays = [rng.standard_normal(shape, dtype="float32") for shape in [(3, 20), (5, 20), (20,)]]
    >>> layer, params = find({"lstm": arrays})["lstm"]
    >>> type(layer).__name__, layer.input_size, layer.hidden_size, layer.batch_first
    ('LSTM', 3, 5, True)
    >>> params["weight_ih_l0"].shape
    (20, 3)
    """
    assumed = Assumed(activation, recurrent_activation, reset_after, allow_nan)
    with found_in(source) as (_, found):
        return {name: convert(layer, assumed) for name, layer in found.items()}


def load(
    source: Any,
    name: str | Sequence[str] | None = None,
    *,
    activation: Any = "tanh",
    recurrent_activation: Any = "sigmoid",
    reset_after: bool = True,
    allow_nan: bool = False,
) -> Converted:
    """One recurrent layer of a model; the others are not read.

    Parameters
    ----------
    source : path, Keras layer or model, list or dict
        As for `find`.
    name : str or list of str, optional
        The layer's; by default the only one. Of several names, from below, one layer with so many `num_layers` is made:
        they must follow each other immediately, which is not checked, and be of one size and kind, which is.
    activation, recurrent_activation, reset_after, allow_nan
        As for `find`.

    Returns
    -------
    Converted

    Raises
    ------
    ValueError, OSError, TypeError
        As for `find`; ValueError too if there is no layer of that name.

    Examples
    --------
    >>> import polyrnn as pr
    >>> gru = pr.GRU(3, 5, num_layers=2, batch_first=True)
    >>> params = gru.init(seed=0)
    >>> layer, same = load(dump(gru, params), ["layer", "layer_1"])
    >>> layer == gru, all((same[name] == params[name]).all() for name in params)
    (True, True)
    """
    assumed = Assumed(activation, recurrent_activation, reset_after, allow_nan)
    with found_in(source) as (where, found):
        if name is None or isinstance(name, str):
            return convert(only(found, name, where), assumed)
        if not name:
            raise ValueError(f"{where}: no names; expected one of {', '.join(map(repr, found)) or 'none'}")
        return stacked([convert(only(found, one, where), assumed) for one in name], where)
