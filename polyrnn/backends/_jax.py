"""JAX: jit, grad, TPU."""

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy

from ._eager import Backend

ROOTS = ("jax", "jaxlib")
REMEDY = "pip install jax (or 'jax[cuda13]' for NVIDIA GPUs)"
X64 = "set jax.config.update('jax_enable_x64', True) or JAX_ENABLE_X64=1 before the first array, or use float32"
# Six times less to compile, for functions that run once.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}


class JAX(Backend):
    """JAX on one device, or on the default one."""

    traces = True

    def dtype(self, name: str) -> Any:
        import jax

        if name in ("float64", "complex128") and not jax.config.jax_enable_x64:
            raise ValueError(f"dtype={name!r}: JAX would cut it to 32 bits; {X64}")
        return super().dtype(name)

    def _array(self, value: Any, dtype: Any) -> Any:
        import jax

        if not isinstance(value, jax.Array):
            value = numpy.asarray(value)
            if dtype is None and value.dtype.name in ("float64", "complex128"):
                self.dtype(value.dtype.name)
            if value.dtype.name in ("int64", "uint64") and value.size and not jax.config.jax_enable_x64:
                limits = numpy.iinfo("int32" if value.dtype.kind == "i" else "uint32")
                if value.min() < limits.min or value.max() > limits.max:
                    raise ValueError(f"an integer of 64 bits, {value.max()}: JAX would cut it to 32; {X64}")
        array = self.xp.asarray(value, dtype=dtype)
        return array if self.device is None else jax.device_put(array, self.device)

    def _to_numpy(self, array: Any) -> numpy.ndarray:
        return numpy.asarray(array)

    def synchronize(self) -> None:
        import jax

        jax.effects_barrier()
        for device in [self.device] if self.device is not None else jax.devices()[:1]:
            jax.device_put(0.0, device).block_until_ready()  # a device runs what it is given in order

    def scan(self, step: Callable, carry: Any, xs: Any, reverse: bool = False) -> tuple[Any, Any]:
        import jax

        return jax.lax.scan(step, carry, xs, reverse=reverse)

    def scan_blocks(
        self, body: Callable, carry: Any, xs: Any, size: int, reverse: bool = False, rows: Any = None
    ) -> tuple[Any, Any]:
        import jax

        # All full blocks are one `lax.scan`, so that the body compiles once for them, and once more for a shorter rest:
        # there is none where up to twice as many blocks divide the length.
        length = jax.tree.leaves(xs)[0].shape[0]
        least = -(-length // size)
        size = next((length // count for count in range(least, 2 * least) if count and length % count == 0), size)
        full = length - length % size if length > size else 0

        def block(inputs: Any, row: Any) -> Any:
            return inputs if rows is None else (inputs, row)

        if not full:
            return body(carry, block(xs, jax.tree.map(lambda a: a[0], rows)))
        count = full // size
        stacked = jax.tree.map(lambda a: a[:full].reshape(count, size, *a.shape[1:]), xs)
        stacked = block(stacked, jax.tree.map(lambda a: a[:count], rows))
        rest = None
        if full < length:
            rest = block(jax.tree.map(lambda a: a[full:], xs), jax.tree.map(lambda a: a[count], rows))
        tail = None
        if reverse and rest is not None:
            carry, tail = body(carry, rest)
        carry, ys = self.scan(body, carry, stacked, reverse)
        if not reverse and rest is not None:
            carry, tail = body(carry, rest)
        ys = jax.tree.map(lambda a: a.reshape(a.shape[0] * a.shape[1], *a.shape[2:]), ys)
        return carry, ys if rest is None else jax.tree.map(lambda a, b: self.xp.concat((a, b)), ys, tail)

    def transposable(self, params: dict) -> Callable:
        import jax

        # XLA folds a transpose into its product, and on a CPU W^T d is then two to five times slower than W d. So W^T
        # goes into the loop as a matrix of its own, of which the two transposes that the loop sees cancel.
        matrices = {name: p for name, p in params.items() if p.ndim > 1}
        turned = jax.lax.optimization_barrier({name: p.mT for name, p in matrices.items()})
        return lambda: params | {name: p.mT for name, p in turned.items()}

    def jit(self, function: Callable) -> Callable:
        import jax

        return jax.jit(function)

    def call(self, function: Callable, static: Any, *arguments: Any) -> Any:
        return _compiled(function)(static, *arguments)

    def custom_vjp(self, function: Callable, forward: Callable, backward: Callable) -> Callable:
        import jax

        result = jax.custom_vjp(function)
        result.defvjp(forward, backward)
        return result

    def recomputed(self, function: Callable) -> Callable:
        import jax

        return jax.checkpoint(function)

    def quick(self, function: Callable) -> Callable:
        import jax

        def run(*arguments: Any) -> Any:
            lowered = jax.jit(function).lower(*arguments)
            try:
                return lowered.compile(compiler_options=QUICK)(*arguments)
            except jax.errors.JaxRuntimeError:  # a version that does not know one of the options
                return lowered.compile()(*arguments)

        return run

    def vjp(self, function: Callable, inputs: Any, upstream: Any) -> Any:
        import jax

        return self.quick(lambda inputs, upstream: jax.vjp(function, inputs)[1](upstream)[0])(inputs, upstream)

    @contextlib.contextmanager
    def exact(self) -> Iterator[None]:
        import jax

        home = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")  # before 0.8
        with home.enable_x64(True), jax.default_matmul_precision("highest"):
            yield

    def is_concrete(self, tree: Any) -> bool:
        import jax

        return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))

    def scatter_add(self, values: Any, index: Any, size: int) -> Any:
        zeros = self.xp.zeros((size, *values.shape[1:]), dtype=values.dtype)
        return zeros.at[index].add(values)


@functools.cache
def _compiled(function: Callable) -> Callable:
    # One jit a function for the whole process: a fresh one a call would compile again each time.
    import jax

    return jax.jit(function, static_argnums=0)


def open_backend(device: Any) -> Backend:
    import jax
    import jax.numpy

    if isinstance(device, str):
        platform, _, number = device.partition(":")
        try:
            device = jax.devices(platform)[int(number or 0)]
        except (RuntimeError, IndexError, ValueError) as error:
            known = ", ".join(f"{d.platform}:{d.id}" for d in jax.devices())
            raise ValueError(f"device={device!r}: JAX has {known}") from error
    return JAX("jax", jax.numpy, device)


def describe() -> tuple[str, tuple[str, ...]]:
    import jax

    return jax.__version__, tuple(f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices())


def accepts(kind: type) -> bool:
    import jax

    return issubclass(kind, jax.Array) or issubclass(kind, jax.core.Tracer)
