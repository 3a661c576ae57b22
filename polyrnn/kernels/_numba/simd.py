"""Vectors of the processor for Numba: a type with as many lanes as two registers hold.

Numba turns scalar loops into vector instructions where LLVM can prove that it may; a recurrence leaves it too much to
prove. Here vectors are values: an operation on them is an instruction for each of two registers, and what is written is
what runs. Two, since an instruction's result is ready some cycles later: meanwhile the other one's is worked on.

Memory is reached by address, an integer of bytes, so that a compiled function has one form for all strides and for
arrays that may not be written to. An address says nothing of the element's type: `like`, a number of that type, does.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import njit as njit
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

I32, I64 = ir.IntType(32), ir.IntType(64)


def _features() -> dict[str, bool]:
    """Those that Numba compiles for."""
    if config.CPU_FEATURES is not None:
        return {part[1:]: part[0] == "+" for part in config.CPU_FEATURES.split(",") if part}
    return dict(llvmlite.binding.get_host_cpu_features())


_FOUND = _features()
_LARGE = bool(_FOUND.get("avx512f") and _FOUND.get("avx512vl"))
REGISTER = 64 if _LARGE else 32 if _FOUND.get("avx") else 16  # bytes
BYTES = 2 * REGISTER  # of a vector
# Of x in one product: a vector of sums for each, that of w and the broadcast number fill the registers.
ROWS = 12 if _LARGE or llvmlite.binding.get_process_triple().startswith(("aarch64", "arm64")) else 6


class Vector(types.Type):
    """A vector of floats."""

    def __init__(self, element: types.Float) -> None:
        self.element = element
        super().__init__(name=f"Vector({element})")


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, vector_of(kind.element))


def size_of(element: types.Float) -> int:
    return element.bitwidth // 8


def vector_of(element: types.Float) -> ir.VectorType:
    return ir.VectorType(ir.FloatType() if size_of(element) == 4 else ir.DoubleType(), BYTES // size_of(element))


def suffix(element: types.Float) -> str:
    return f"v{BYTES // size_of(element)}f{element.bitwidth}"


def pointer(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def spread(builder: Any, scalar: Any, vector: ir.VectorType) -> Any:
    """The number in all lanes."""
    nothing = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(nothing, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count))


# ---- arithmetic ------------------------------------------------------------------------


def _result(arguments: tuple) -> Vector | None:
    """The type of an operation on vectors and numbers, which stand for vectors of that number."""
    found = next((a for a in arguments if isinstance(a, Vector)), None)
    alike = all(isinstance(a, (Vector, types.Float, types.Integer)) for a in arguments)
    return found if alike else None


def _lowering(emit: Callable) -> Callable:
    def codegen(context: Any, builder: Any, signature: Any, values: tuple) -> Any:
        element, vectors = signature.return_type.element, []
        for kind, value in zip(signature.args, values, strict=True):
            if not isinstance(kind, Vector):
                value = spread(builder, context.cast(builder, value, kind, element), vector_of(element))
            vectors.append(value)
        return emit(builder, element, *vectors)

    return codegen


def _elementwise(emit: Callable, count: int = 2) -> Any:
    """An intrinsic of `count` vectors or numbers."""

    def typed(*arguments: Any) -> Any:
        found = _result(arguments)
        return None if found is None else (found(*arguments), _lowering(emit))

    if count == 2:
        return intrinsic(lambda context, a, b: typed(a, b))
    return intrinsic(lambda context, a, b, c: typed(a, b, c))


def fused(builder: Any, element: types.Float, a: Any, b: Any, c: Any) -> Any:
    # llvm.fma is a call to a library where the processor has no such instruction.
    name = "fma" if _FOUND.get("fma") or ROWS == 12 else "fmuladd"
    kind = ir.FunctionType(vector_of(element), [vector_of(element)] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.{suffix(element)}")
    return builder.call(function, [a, b, c])


def _where_positive(builder: Any, element: types.Float, a: Any, b: Any) -> Any:
    zero = ir.Constant(vector_of(element), None)
    return builder.select(builder.fcmp_ordered(">", b, zero), a, zero)


fma = _elementwise(fused, 3)  # a * b + c, rounded once
# A comparison with NaN is false: it goes through both.
least = _elementwise(lambda builder, _, a, b: builder.select(builder.fcmp_ordered(">", a, b), b, a))
most = _elementwise(lambda builder, _, a, b: builder.select(builder.fcmp_ordered("<", a, b), b, a))
where_positive = _elementwise(_where_positive)  # a where b > 0, else 0


def _operator(function: Callable, emit: Callable) -> None:
    """Typed and lowered directly: an overload in Python would be compiled for each kind of its arguments."""

    @type_callable(function)
    def of_vectors(context):
        return lambda a, b: _result((a, b)) if isinstance(a, Vector) or isinstance(b, Vector) else None

    for kinds in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(function, *kinds)(_lowering(emit))


_operator(operator.add, lambda builder, _, a, b: builder.fadd(a, b))
_operator(operator.sub, lambda builder, _, a, b: builder.fsub(a, b))
_operator(operator.mul, lambda builder, _, a, b: builder.fmul(a, b))
_operator(operator.truediv, lambda builder, _, a, b: builder.fdiv(a, b))


@intrinsic
def power_of_two(context, n):
    """2^n; n was rounded to a whole number by adding 1.5 * 2^(bits of the mantissa), and is given with that added."""
    if not isinstance(n, Vector):
        return None
    mantissa, bias = (23, 127) if size_of(n.element) == 4 else (52, 1023)

    def codegen(context: Any, builder: Any, signature: Any, values: tuple) -> Any:
        vector = vector_of(n.element)
        whole = ir.VectorType(ir.IntType(n.element.bitwidth), vector.count)
        bits = builder.add(builder.bitcast(values[0], whole), ir.Constant(whole, [bias] * whole.count))
        return builder.bitcast(builder.shl(bits, ir.Constant(whole, [mantissa] * whole.count)), vector)

    return n(n), codegen


# ---- memory ----------------------------------------------------------------------------


@intrinsic
def lanes(context, like):
    """The number of lanes, a constant."""
    count = BYTES // size_of(like)
    return types.int64(like), lambda context, builder, signature, values: ir.Constant(I64, count)


@intrinsic
def itemsize(context, like):
    """The bytes of an element, a constant."""
    return types.int64(like), lambda context, builder, signature, values: ir.Constant(I64, size_of(like))


@intrinsic
def zero(context, like):
    """The number 0 of like's type."""
    return like(like), lambda context, builder, signature, values: ir.Constant(vector_of(like).element, 0.0)


@intrinsic
def zeros(context, like):
    """A vector of zeros."""
    return Vector(like)(like), lambda context, builder, signature, values: ir.Constant(vector_of(like), None)


@intrinsic
def get(context, at, like):
    """One number, of any type that has a machine's form."""

    def codegen(context: Any, builder: Any, signature: Any, values: tuple) -> Any:
        return builder.load(pointer(builder, values[0], context.get_value_type(like)))

    return like(at, like), codegen


@intrinsic
def put(context, at, value):
    """Write one number."""

    def codegen(context: Any, builder: Any, signature: Any, values: tuple) -> Any:
        builder.store(values[1], pointer(builder, values[0], values[1].type))
        return context.get_dummy_value()

    return types.void(at, value), codegen


@intrinsic
def whole(context, at, like):
    """The vector at an address, of any alignment."""

    def codegen(context: Any, builder: Any, signature: Any, values: tuple) -> Any:
        found = builder.load(pointer(builder, values[0], vector_of(like)))
        found.align = size_of(like)
        return found

    return Vector(like)(at, like), codegen


@intrinsic
def put_whole(context, at, value):
    """Write a vector."""
    if not isinstance(value, Vector):
        return None

    def codegen(context: Any, builder: Any, signature: Any, values: tuple) -> Any:
        builder.store(values[1], pointer(builder, values[0], values[1].type)).align = size_of(value.element)
        return context.get_dummy_value()

    return types.void(at, value), codegen


def function_of(builder: Any, name: str, signature: Any, build: Callable) -> Any:
    """A function of the module that is being built, made once and not copied to where it is called.

    What is large and called from many places would else be compiled for each of them.
    """
    module = builder.module
    name = f"polyrnn.{name}"
    if name not in module.globals:
        function = ir.Function(module, signature, name)
        function.linkage = "linkonce_odr"
        function.attributes.add("noinline")
        inner = ir.IRBuilder(function.append_basic_block())
        found = build(inner, *function.args)
        inner.ret_void() if found is None else inner.ret(found)
    return module.globals[name]


def _lane_by_lane(builder: Any, count: Any, address: Any, place: Any, element: Any, size: int, outward: bool) -> None:
    """Copy `count` numbers between memory and a vector on the stack."""
    with cgutils.for_range(builder, count) as loop:
        there = pointer(builder, builder.add(address, builder.mul(loop.index, ir.Constant(I64, size))), element)
        here = builder.gep(builder.bitcast(place, element.as_pointer()), [loop.index])
        builder.store(builder.load(here), there) if outward else builder.store(builder.load(there), here)


@intrinsic
def part(context, at, count, like):
    """The first `count` lanes, zeros in the others; memory behind them is not touched."""
    kind = vector_of(like)

    def body(builder: Any, at: Any, count: Any) -> Any:
        place = cgutils.alloca_once_value(builder, ir.Constant(kind, None))
        _lane_by_lane(builder, count, at, place, kind.element, size_of(like), outward=False)
        return builder.load(place)

    def codegen(context: Any, builder: Any, signature: Any, values: tuple) -> Any:
        form = ir.FunctionType(kind, [I64, I64])
        return builder.call(function_of(builder, f"part.{suffix(like)}", form, body), values[:2])

    return Vector(like)(at, types.int64, like), codegen


@intrinsic
def put_part(context, at, value, count):
    """Write the first `count` lanes."""
    if not isinstance(value, Vector):
        return None
    like, kind = value.element, vector_of(value.element)

    def body(builder: Any, at: Any, count: Any, vector: Any) -> None:
        place = cgutils.alloca_once_value(builder, vector)
        _lane_by_lane(builder, count, at, place, kind.element, size_of(like), outward=True)

    def codegen(context: Any, builder: Any, signature: Any, values: tuple) -> Any:
        at, vector, count = values
        form = ir.FunctionType(ir.VoidType(), [I64, I64, kind])
        builder.call(function_of(builder, f"put_part.{suffix(like)}", form, body), [at, count, vector])
        return context.get_dummy_value()

    return types.void(at, value, types.int64), codegen


@njit
def load(at, count, like):
    """The vector at an address, or what is left of it before the end of the row."""
    if count >= lanes(like):
        return whole(at, like)
    return part(at, count, like)


@njit
def store(at, value, count, like):
    """Write a vector, or as much of it as the row has."""
    if count >= lanes(like):
        put_whole(at, value)
    else:
        put_part(at, value, count)
