"""The product whose sums stay in registers, in terms of LLVM's instructions."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .simd import BYTES, I64, ROWS, function_of, fused, pointer, size_of, spread, suffix, vector_of


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
        size = size_of(like)
        vector = vector_of(like)

        def body(builder: Any, *values: Any) -> None:
            number, w, panel, x, x_step, x_pitch, K, start, start_pitch, out, out_pitch, count = values

            def along(base: Any, pitch: Any, n: int) -> Any:
                return builder.add(base, builder.mul(pitch, ir.Constant(I64, n)))

            def load(address: Any, p: int) -> Any:
                address = builder.add(address, ir.Constant(I64, p * BYTES))
                found = builder.load(pointer(builder, address, vector))
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
                    scalar = builder.load(pointer(builder, builder.add(xs[n], at_x), vector.element))
                    factor = spread(builder, scalar, vector)
                    for p in range(panels):
                        new[n, p] = fused(builder, like, weights[p], factor, sums[n, p])
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
                    builder.store(first[n, p], pointer(builder, address, vector)).align = size

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
            builder.call(function_of(builder, f"tile.{panels}.{suffix(like)}", form, body), values[:12])
            return context.get_dummy_value()

        return types.void(*[types.int64] * 12, like), codegen

    return tile


# A sum is ready some cycles after its last term: few rows need several panels to keep the processor busy.
tile, two_panels, four_panels = _tile(1, ROWS), _tile(2, 2), _tile(4, 1)
