"""Vectors of the processor for Numba: a type with as many lanes as two registers hold, and the product in registers.

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
        super().__init__(manager, kind, _vector(kind.element))


def _size(element: types.Float) -> int:
    return element.bitwidth // 8


def _vector(element: types.Float) -> ir.VectorType:
    return ir.VectorType(ir.FloatType() if _size(element) == 4 else ir.DoubleType(), BYTES // _size(element))


def _suffix(element: types.Float) -> str:
    return f"v{BYTES // _size(element)}f{element.bitwidth}"


def _pointer(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _spread(builder: Any, scalar: Any, vector: ir.VectorType) -> Any:
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
                value = _spread(builder, context.cast(builder, value, kind, element), _vector(element))
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


def _fused(builder: Any, element: types.Float, a: Any, b: Any, c: Any) -> Any:
    # llvm.fma is a call to a library where the processor has no such instruction.
    name = "fma" if _FOUND.get("fma") or ROWS == 12 else "fmuladd"
    kind = ir.FunctionType(_vector(element), [_vector(element)] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.{_suffix(element)}")
    return builder.call(function, [a, b, c])


def _where_positive(builder: Any, element: types.Float, a: Any, b: Any) -> Any:
    zero = ir.Constant(_vector(element), None)
    return builder.select(builder.fcmp_ordered(">", b, zero), a, zero)


fma = _elementwise(_fused, 3)  # a * b + c, rounded once
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
    mantissa, bias = (23, 127) if _size(n.element) == 4 else (52, 1023)

    def codegen(context: Any, builder: Any, signature: Any, values: tuple) -> Any:
        vector = _vector(n.element)
        whole = ir.VectorType(ir.IntType(n.element.bitwidth), vector.count)
        bits = builder.add(builder.bitcast(values[0], whole), ir.Constant(whole, [bias] * whole.count))
        return builder.bitcast(builder.shl(bits, ir.Constant(whole, [mantissa] * whole.count)), vector)

    return n(n), codegen


# ---- memory ----------------------------------------------------------------------------


@intrinsic
def lanes(context, like):
    """The number of lanes, a constant."""
    count = BYTES // _size(like)
    return types.int64(like), lambda context, builder, signature, values: ir.Constant(I64, count)


@intrinsic
def itemsize(context, like):
    """The bytes of an element, a constant."""
    return types.int64(like), lambda context, builder, signature, values: ir.Constant(I64, _size(like))


@intrinsic
def zero(context, like):
    """The number 0 of like's type."""
    return like(like), lambda context, builder, signature, values: ir.Constant(_vector(like).element, 0.0)


@intrinsic
def zeros(context, like):
    """A vector of zeros."""
    return Vector(like)(like), lambda context, builder, signature, values: ir.Constant(_vector(like), None)


@intrinsic
def get(context, at, like):
    """One number, of any type that has a machine's form."""

    def codegen(context: Any, builder: Any, signature: Any, values: tuple) -> Any:
        return builder.load(_pointer(builder, values[0], context.get_value_type(like)))

    return like(at, like), codegen


@intrinsic
def put(context, at, value):
    """Write one number."""

    def codegen(context: Any, builder: Any, signature: Any, values: tuple) -> Any:
        builder.store(values[1], _pointer(builder, values[0], values[1].type))
        return context.get_dummy_value()

    return types.void(at, value), codegen


@intrinsic
def whole(context, at, like):
    """The vector at an address, of any alignment."""

    def codegen(context: Any, builder: Any, signature: Any, values: tuple) -> Any:
        found = builder.load(_pointer(builder, values[0], _vector(like)))
        found.align = _size(like)
        return found

    return Vector(like)(at, like), codegen


@intrinsic
def put_whole(context, at, value):
    """Write a vector."""
    if not isinstance(value, Vector):
        return None

    def codegen(context: Any, builder: Any, signature: Any, values: tuple) -> Any:
        builder.store(values[1], _pointer(builder, values[0], values[1].type)).align = _size(value.element)
        return context.get_dummy_value()

    return types.void(at, value), codegen


def _function(builder: Any, name: str, signature: Any, build: Callable) -> Any:
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
        there = _pointer(builder, builder.add(address, builder.mul(loop.index, ir.Constant(I64, size))), element)
        here = builder.gep(builder.bitcast(place, element.as_pointer()), [loop.index])
        builder.store(builder.load(here), there) if outward else builder.store(builder.load(there), here)


@intrinsic
def part(context, at, count, like):
    """The first `count` lanes, zeros in the others; memory behind them is not touched."""
    kind = _vector(like)

    def body(builder: Any, at: Any, count: Any) -> Any:
        place = cgutils.alloca_once_value(builder, ir.Constant(kind, None))
        _lane_by_lane(builder, count, at, place, kind.element, _size(like), outward=False)
        return builder.load(place)

    def codegen(context: Any, builder: Any, signature: Any, values: tuple) -> Any:
        form = ir.FunctionType(kind, [I64, I64])
        return builder.call(_function(builder, f"part.{_suffix(like)}", form, body), values[:2])

    return Vector(like)(at, types.int64, like), codegen


@intrinsic
def put_part(context, at, value, count):
    """Write the first `count` lanes."""
    if not isinstance(value, Vector):
        return None
    like, kind = value.element, _vector(value.element)

    def body(builder: Any, at: Any, count: Any, vector: Any) -> None:
        place = cgutils.alloca_once_value(builder, vector)
        _lane_by_lane(builder, count, at, place, kind.element, _size(like), outward=True)

    def codegen(context: Any, builder: Any, signature: Any, values: tuple) -> Any:
        at, vector, count = values
        form = ir.FunctionType(ir.VoidType(), [I64, I64, kind])
        builder.call(_function(builder, f"put_part.{_suffix(like)}", form, body), [at, count, vector])
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


# ---- the product -----------------------------------------------------------------------


def _tile(panels: int, rows: int) -> Any:
    """The intrinsic that multiplies up to `rows` rows by `panels` panels at a time, a `number` of times.

    With n counting the rows and p the panels of a time,

        out[n, p] = start[n, p] + sum_k w[p, k] x[n, k]

    where start, w and out are vectors and all sums stay in registers. A panel is (K, vector); panels stand `panel`
    bytes behind each other, the numbers of x `x_step` and rows of x, start and out `*_pitch` bytes. Sums are formed in
    the order of k, whatever the number of rows, so that results do not depend on how rows are put together.
    """

    @intrinsic
    def tile(context, number, w, panel, x, x_step, x_pitch, K, start, start_pitch, out, out_pitch, count, like):
        size = _size(like)
        vector = _vector(like)

        def body(builder: Any, *values: Any) -> None:
            number, w, panel, x, x_step, x_pitch, K, start, start_pitch, out, out_pitch, count = values

            def along(base: Any, pitch: Any, n: int) -> Any:
                return builder.add(base, builder.mul(pitch, ir.Constant(I64, n)))

            def load(address: Any, p: int) -> Any:
                address = builder.add(address, ir.Constant(I64, p * BYTES))
                found = builder.load(_pointer(builder, address, vector))
                found.align = size
                return found

            def product(count: int, end: Any) -> None:
                before, again = builder.block, builder.append_basic_block("panels")
                body, done = builder.append_basic_block("k"), builder.append_basic_block("sums")
                builder.branch(again)
                builder.position_at_end(again)
                j = builder.phi(I64)
                j.add_incoming(ir.Constant(I64, 0), before)
                behind = builder.mul(j, ir.Constant(I64, panels * BYTES))
                each = [(n, p) for n in range(count) for p in range(panels)]
                first = {(n, p): load(builder.add(along(start, start_pitch, n), behind), p) for n, p in each}
                xs = [along(x, x_pitch, n) for n in range(count)]
                here = builder.add(w, builder.mul(builder.mul(j, ir.Constant(I64, panels)), panel))
                ws = [along(here, panel, p) for p in range(panels)]
                builder.cbranch(builder.icmp_signed(">", K, ir.Constant(I64, 0)), body, done)
                builder.position_at_end(body)
                k, at_w, at_x = (builder.phi(I64) for _ in range(3))
                sums = {key: builder.phi(vector) for key in each}
                weights = [load(builder.add(ws[p], at_w), 0) for p in range(panels)]
                new = {}
                for n in range(count):
                    scalar = builder.load(_pointer(builder, builder.add(xs[n], at_x), vector.element))
                    factor = _spread(builder, scalar, vector)
                    for p in range(panels):
                        new[n, p] = _fused(builder, like, weights[p], factor, sums[n, p])
                for phi, step in ((k, ir.Constant(I64, 1)), (at_w, ir.Constant(I64, BYTES)), (at_x, x_step)):
                    phi.add_incoming(ir.Constant(I64, 0), again)
                    phi.add_incoming(builder.add(phi, step), body)
                for key in each:
                    sums[key].add_incoming(first[key], again)
                    sums[key].add_incoming(new[key], body)
                builder.cbranch(builder.icmp_signed("<", k.incomings[1][0], K), body, done)
                builder.position_at_end(done)
                for key in each:
                    total = builder.phi(vector)
                    total.add_incoming(first[key], again)
                    total.add_incoming(new[key], body)
                    first[key] = total  # phis stand before all else in a block
                for n, p in each:
                    address = builder.add(builder.add(along(out, out_pitch, n), behind), ir.Constant(I64, p * BYTES))
                    builder.store(first[n, p], _pointer(builder, address, vector)).align = size

                following = builder.add(j, ir.Constant(I64, 1))
                j.add_incoming(following, done)
                builder.cbranch(builder.icmp_signed("<", following, number), again, end)

            end = builder.append_basic_block("end")
            choice = builder.switch(count, end)
            for rows_here in range(1, rows + 1):
                block = builder.append_basic_block(f"rows{rows_here}")
                choice.add_case(ir.Constant(I64, rows_here), block)
                builder.position_at_end(block)
                product(rows_here, end)
            builder.position_at_end(end)

        def codegen(context: Any, builder: Any, signature: Any, values: tuple) -> Any:
            form = ir.FunctionType(ir.VoidType(), [I64] * 12)
            builder.call(_function(builder, f"tile.{panels}.{_suffix(like)}", form, body), values[:12])
            return context.get_dummy_value()

        return types.void(*[types.int64] * 12, like), codegen

    return tile


# A sum is ready some cycles after its last term: few rows need several panels to keep the processor busy.
tile, two_panels, four_panels = _tile(1, ROWS), _tile(2, 2), _tile(4, 1)
