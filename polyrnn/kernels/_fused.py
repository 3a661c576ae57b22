"""What the CuPy kernels share: a time step, forward or back, is one product and one launch.

The equations and their numbers are those of the cells, and what stands outside the time loop is their own code. Of a
step there remains the product with U, which is cuBLAS', and everything point-wise, which is one CUDA kernel: it takes
the two shares of the pre-activations, and leaves states, outputs and residuals where they are to stay. Nothing is
copied inside the loop, and the host waits for nothing.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import array_api_compat.cupy as xp
import cupy
import numpy

from ..cells._cell import HeldResidual, columns

Array = Any
FLOATS = {numpy.dtype("float32"): "float", numpy.dtype("float64"): "double"}
THREADS = 128  # of a block: a small state (64, 16) is then spread over eight multiprocessors
BLOCKS = 8  # of the reference, done at once: the products outside the loop are too small for a GPU else

# A thread has one element of a state (H, N), that of a unit and an example, and of each of the gates. The cells' steps
# are written with
#
#   p(k), q(k)       gate k's share of the input and of h_{t-1}, with the biases
#   before(m)        state m before the step;              after(m, s)      sets it after the step
#   above(m)         the gradient of state m after it;     below(m, d)      sets that of the state before
#   part(m)          the residual's part m;                leave(m, a)      sets that which is no state, if it is kept
#                                                          gates(k, dp, dq) sets the gradients of p(k) and q(k)
PRELUDE = r"""
typedef long long Int;

struct Place { const R* at; Int step; };
struct Tape { Place part[PARTS]; };
struct Upstream { Place state[STATES]; };

__device__ R sigmoid(R z) { return tanh(z * R(0.5)) * R(0.5) + R(0.5); }
__device__ R d_sigmoid(R s) { return s * (1 - s); }  // the derivatives are written in the outputs
__device__ R d_tanh(R a) { return 1 - a * a; }
"""

FORWARD = r"""
extern "C" __global__ void forward(
    Int t, Int s, Int T, Int steps, Int rows, Int H, Int N, const R* pre, const R* product, const R* b_hh,
    const bool* valid, R* states, R* y, R* residuals)
{
    const Int size = H * N;
    const int e = blockIdx.x * blockDim.x + threadIdx.x, unit = e / (int)N, example = e % (int)N;
    if (e >= size) return;
    const bool moves = !valid || valid[t * N + example];

    auto p = [&](int k) { return pre[((k * H + unit) * steps + s) * N + example]; };
    auto q = [&](int k) { return product[k * size + e] + (b_hh ? b_hh[k * H + unit] : R(0)); };
    const Int now = rows > 1 ? t : 0, next = rows > 1 ? t + 1 : 0;  // without a tape the state has one place
    auto before = [&](int m) { return states[(m * rows + now) * size + e]; };
    auto after = [&](int m, R value) {
        states[(m * rows + next) * size + e] = moves ? value : before(m);
        if (m == 0) y[t * size + e] = moves ? value : R(0);
    };
    auto leave = [&](int m, R a) { if (residuals) residuals[(m * T + t) * size + e] = a; };
    { STEP }
}
"""

BACKWARD = r"""
extern "C" __global__ void backward(
    Int t, Int steps, Int H, Int N, Tape tape, Upstream dy, const bool* valid, const R* product, R* dstates,
    R* operand, R* dpre, R* drec)
{
    const Int size = H * N;
    const int e = blockIdx.x * blockDim.x + threadIdx.x, unit = e / (int)N, example = e % (int)N;
    if (e >= size) return;

    auto part = [&](int m) { return tape.part[m].at[t * tape.part[m].step + e]; };
    auto above = [&](int m) {
        const R d = dstates[m * size + e] + (m == 0 ? product[e] : R(0));
        return dy.state[m].at ? d + dy.state[m].at[t * dy.state[m].step + e] : d;
    };
    auto below = [&](int m, R d) { dstates[m * size + e] = d; };
    auto gates = [&](int k, R dp, R dq) {
        const Int column = ((k * H + unit) * steps + t) * N + example;
        operand[k * size + e] = dq;
        dpre[column] = dp;
        if (drec) drec[column] = dq;
    };
    if (valid && !valid[t * N + example]) {  // the state stood still: its gradient goes past the cell
        for (int m = 0; m < STATES; m++) below(m, above(m));
        for (int k = 0; k < GATES; k++) gates(k, 0, 0);
        return;
    }
    { STEP }
}
"""


@functools.cache
def _compiled(source: str, name: str) -> Any:
    return cupy.RawKernel(source, name)


class Fused:
    """What the recurrences share: the loop, and the launch of a cell's part in it."""

    name = "cupy fused"
    parts: ClassVar[int]  # of a residual that are not states
    residual: ClassVar[Any]
    late_bias: ClassVar[bool] = False  # whether b_hh cannot be added before the loop
    forward_step: ClassVar[str]
    backward_step: ClassVar[str]

    def supports(self, x: Array, valid: Any) -> bool:
        """Sequences of a step or more, of one example or more, in float32 or float64."""
        return x.ndim == 3 and x.shape[0] > 0 and x.shape[2] > 0 and x.dtype in FLOATS

    def definitions(self, cell: Any) -> str:
        """What else the cell's part needs."""
        return ""

    def launcher(self, name: str, cell: Any, H: int, N: int, dtype: Any) -> Any:
        """The kernel of that name, as a function of its arguments."""
        frame, step = (FORWARD, self.forward_step) if name == "forward" else (BACKWARD, self.backward_step)
        sizes = f"GATES = {cell.gates}, STATES = {len(cell.states)}, PARTS = {len(self.residual._fields)}"
        first = f"typedef {FLOATS[dtype]} R;\nenum {{ {sizes} }};\n"
        source = first + PRELUDE + self.definitions(cell) + frame.replace("STEP", step)
        kernel, grid = _compiled(source, name), (-(-H * N // THREADS),)
        return lambda *arguments: kernel(grid, (THREADS,), arguments)

    def residuals(self, states: Array, parts: Array) -> Any:
        """The cell's own residuals, as views; `states` (S, T + 1, H, N) holds those before and after each step."""
        raise NotImplementedError

    def forward(
        self, cell: Any, params: dict, x: Array, state: tuple, valid: Array | None, size: int, keep: bool
    ) -> tuple[Array, tuple, Any]:
        """From x (T, I, N): y (T, H, N), the final state, the cell's residuals if `keep`."""
        T, _, N = x.shape
        U = cupy.ascontiguousarray(params["weight_hh"])
        H, dtype, size = U.shape[1], x.dtype, size * BLOCKS
        # Where none are kept, the states have one place, and each step writes over what the one before has left.
        rows, parts = (T + 1, cupy.empty((self.parts, T, H, N), dtype)) if keep else (1, None)
        states, y, product = (cupy.empty(s, dtype) for s in ((len(state), rows, H, N), (T, H, N), (len(U), N)))
        for whole, first in zip(states, state, strict=True):
            whole[0] = first
        moves = None if valid is None else cupy.ascontiguousarray(valid)
        b_hh = params.get("bias_hh") if self.late_bias else None
        b_hh = None if b_hh is None else cupy.ascontiguousarray(b_hh)
        step = self.launcher("forward", cell, H, N, dtype)
        for start in range(0, T, size):
            pre = columns(xp, cell.project(xp, params, x[start : start + size]))  # as it lies in memory
            steps = pre.shape[1] // N
            fixed = (T, steps, rows, H, N, pre, product, b_hh, moves, states, y, parts)
            for k in range(steps):
                t = start + k
                cupy.dot(U, states[0, t % rows], out=product)
                step(t, k, *fixed)
        ends = tuple(states[:, -1].copy())
        if not keep:
            return y, ends, None
        residuals = self.residuals(states, parts)
        return y, ends, residuals if valid is None else HeldResidual(residuals, (valid,) * len(state))

    def backward(
        self,
        cell: Any,
        params: dict,
        x: Array,
        valid: Array | None,
        residuals: Any,
        dy: tuple,
        dstate: tuple,
        size: int,
        sums: dict,
    ) -> tuple[dict, Array, tuple]:
        """-> the sums with the gradients of the parameters added, the gradients of x and of the initial state."""
        residuals = residuals if valid is None else residuals.cell
        T, _, N = x.shape
        U_T = cupy.ascontiguousarray(params["weight_hh"]).T
        (H, rows), dtype, size = U_T.shape, x.dtype, size * BLOCKS
        moves = None if valid is None else cupy.ascontiguousarray(valid)
        # The gradient of h has two shares: U^T dq, which the product leaves, and what does not go through it.
        dstates, product, operand = cupy.stack(dstate), cupy.zeros((H, N), dtype), cupy.empty((rows, N), dtype)
        dx = cupy.empty(x.shape, dtype)
        step = self.launcher("backward", cell, H, N, dtype)
        for start in reversed(range(0, T, size)):
            end = min(start + size, T)
            steps, inside = end - start, [part[start:end] for part in residuals]
            tape, above = _by_step(inside), _by_step([None if d is None else d[start:end] for d in dy])
            # As columns, so that the products after the loop take them as they lie.
            dpre = cupy.empty((rows, steps, N), dtype)
            drec = cupy.empty_like(dpre) if self.late_bias else None
            still = None if moves is None else moves[start:end]
            fixed = (steps, H, N, _places(tape), _places(above), still, product, dstates, operand, dpre, drec)
            for t in reversed(range(steps)):
                step(t, *fixed)
                cupy.dot(U_T, operand, out=product)
            dpre = dpre.transpose(1, 0, 2)
            drec = dpre if drec is None else drec.transpose(1, 0, 2)
            grads = cell.weight_gradients(xp, params, x[start:end], type(residuals)(*inside), dpre, drec)
            sums = {name: total + grads[name] for name, total in sums.items()}
            dx[start:end] = cell.project_backward(xp, params, dpre)
        return sums, dx, (dstates[0] + product, *dstates[1:])


def _by_step(arrays: list) -> list:
    """The arrays (k, H, N) with contiguous steps."""
    return [a if a is None or a[0].flags.c_contiguous else cupy.ascontiguousarray(a) for a in arrays]


def _places(arrays: list) -> numpy.ndarray:
    """For a kernel: where each array is, and how far its steps are apart."""
    places = [(0, 0) if a is None else (a.data.ptr, a.strides[0] // a.itemsize) for a in arrays]
    return numpy.array((places,), dtype=[("place", "i8", (len(places), 2))])
