"""Arrays of other libraries without copying them, by DLPack: CPU tensors into NumPy, CUDA tensors into CuPy.

Out again nothing is needed: `torch.from_dlpack(array)`, `jax.numpy.from_dlpack(array)` and their like take the arrays
that polyrnn returns.
"""

from __future__ import annotations

from typing import Any

from ..backends import backend as open_backend
from ..backends import tree_map

__all__ = ["from_dlpack"]

_BY_DEVICE = {1: "numpy", 2: "cupy", 13: "cupy"}  # DLPack's kDLCPU, kDLCUDA and kDLCUDAManaged


def from_dlpack(tree: Any, backend: str | None = None) -> Any:
    """The same memory as arrays of a backend.

    Parameters
    ----------
    tree : array with `__dlpack__`, or dicts and tuples of such
        Tensors of PyTorch's that require gradients are taken without them.
    backend : str, optional
        Whose arrays; by default NumPy's for memory of the host, and CuPy's for a GPU's.

    Returns
    -------
    tree of the same form
        What is written through one library is seen through the other; polyrnn writes to no array that it is given.

    Raises
    ------
    TypeError
        If an array has no `__dlpack__`, or is of a dtype that the backend has not.
    ValueError
        If it lies on a device that no backend reaches.
    BackendUnavailable
        If the backend cannot run here.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(3.0)
    >>> np.shares_memory(from_dlpack({"x": x})["x"], x)
    True
    """

    def one(array: Any) -> Any:
        if not hasattr(array, "__dlpack__") or not hasattr(array, "__dlpack_device__"):
            raise TypeError(f"{type(array).__name__} has no __dlpack__; expected an array that can share its memory")
        array = array.detach() if hasattr(array, "detach") else array
        device = int(array.__dlpack_device__()[0])
        if backend is None and device not in _BY_DEVICE:
            raise ValueError(f"an array on DLPack's device {device}; expected the host or a CUDA device")
        chosen = open_backend(backend or _BY_DEVICE[device])
        try:
            return chosen.xp.from_dlpack(array)
        except (BufferError, RuntimeError) as error:
            raise TypeError(f"{type(array).__name__} of {array.dtype}: {error}") from error

    return tree_map(one, tree)
