"""CuPy: NVIDIA GPUs."""

from typing import Any

import numpy

from ._eager import Backend

ROOTS = ("cupy",)
REMEDY = "pip install 'cupy-cuda13x[ctk]' (CUDA 13 driver) or 'cupy-cuda12x[ctk]' (CUDA 12 driver)"


class CuPy(Backend):
    """CuPy on one CUDA device."""

    def _array(self, value: Any, dtype: Any) -> Any:
        with self.device:
            return self.xp.asarray(value, dtype=dtype)

    def _to_numpy(self, array: Any) -> numpy.ndarray:
        return array.get()

    def synchronize(self) -> None:
        self.device.synchronize()

    def check_device(self, arrays: list[Any]) -> None:
        devices = sorted({array.device.id for array in arrays})
        if len(devices) > 1:
            raise TypeError(f"arrays on CUDA devices {devices}: move them to one, with backend('cupy', device).asarray")

    def scatter_add(self, values: Any, index: Any, size: int) -> Any:
        import cupy

        total = self.xp.zeros((size, *values.shape[1:]), dtype=values.dtype)
        cupy.add.at(total, index, values)
        return total


def open_backend(device: Any) -> Backend:
    import array_api_compat.cupy
    import cupy

    _prove(cupy)
    try:
        number = int(str(device).rpartition(":")[2]) if isinstance(device, str) else device
        chosen = cupy.cuda.Device(number)  # None: the current one
        if not 0 <= chosen.id < cupy.cuda.runtime.getDeviceCount():
            raise ValueError
    except (ValueError, TypeError) as error:
        count = cupy.cuda.runtime.getDeviceCount()
        raise ValueError(f"device={device!r}: expected 'cuda:K' or K with 0 <= K < {count}, or None") from error
    return CuPy("cupy", array_api_compat.cupy, chosen)


def describe() -> tuple[str, tuple[str, ...]]:
    import cupy

    _prove(cupy)
    runtime = cupy.cuda.runtime
    names = (runtime.getDeviceProperties(k)["name"].decode() for k in range(runtime.getDeviceCount()))
    return cupy.__version__, tuple(f"cuda:{k} {name}" for k, name in enumerate(names))


def _prove(cupy: Any) -> None:
    """Raise RuntimeError that says why and what to do, unless a kernel and a matrix product really run.

    `cupy.is_available()` sees a driver and a device; NVRTC, the CUDA headers and cuBLAS may still be missing.
    """
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        remedy = "install NVIDIA's driver, and see that nvidia-smi lists the GPU"
        raise RuntimeError(f"no CUDA device can be used ({_first_line(error)})|{remedy}") from error
    if count == 0:
        raise RuntimeError("the driver shows no CUDA device|set CUDA_VISIBLE_DEVICES so that it names one")
    try:
        product = cupy.ones((2, 3), dtype="float32") @ cupy.ones((3, 2), dtype="float32")
        works = bool((product.get() == 3).all())
    except Exception as error:
        raise RuntimeError(f"a small matrix product failed ({_first_line(error)})|{REMEDY}") from error
    if not works:
        raise RuntimeError(f"a small matrix product gave a wrong result|{REMEDY}")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def accepts(kind: type) -> bool:
    return kind.__name__ == "ndarray"
