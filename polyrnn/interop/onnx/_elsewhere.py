"""A graph run by ONNX Runtime, where it is installed, for comparison."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any


def elsewhere(path: str | PathLike[str], inputs: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """ONNX Runtime's version and outputs by name; None where it is not installed; ValueError says why it refused."""
    try:
        import onnxruntime
    except ImportError:
        return None
    try:
        session = onnxruntime.InferenceSession(fspath(path), providers=["CPUExecutionProvider"])
        found = session.run(None, dict(inputs))
    except Exception as error:  # its own, without a common class; it takes no recurrent operators in float64
        words = " ".join(str(error).split())[:200]
        raise ValueError(f"ONNX Runtime {onnxruntime.__version__} refused it: {words}") from error
    names = [output.name for output in session.get_outputs()]
    return onnxruntime.__version__, dict(zip(names, found, strict=True))
