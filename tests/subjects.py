"""On what the contract tests run: array libraries, some of them in several ways, and kernels by name."""

import contextlib
import functools
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

import polyrnn as pr
from polyrnn import kernels, testing
from polyrnn.backends import backend_of, tree_map

MEASURED: dict[tuple[str, str], float] = {}  # the largest errors of this process, for the summary


@dataclass(frozen=True)
class Subject:
    """One way to run the library."""

    name: str
    library: str
    tags: frozenset = field(default_factory=frozenset)  # see TAGS
    kernel: str | None = None  # the kernel that is to run, by name; None: the reference

    def __repr__(self) -> str:
        return self.name if self.kernel is None else f"{self.name}+{self.kernel.replace(' ', '_')}"

    @property
    def backend(self) -> pr.Backend:
        return pr.backend(self.library)

    @property
    def xp(self) -> Any:
        return self.backend.xp

    def why_not(self) -> str | None:
        """Why it cannot run here."""
        found = pr.available_backends()[self.library]
        return None if found.available else f"{found.reason}; to mend it: {found.remedy}"

    def array(self, tree: Any, dtype: str | None = None) -> Any:
        """A tree of host arrays as this subject's."""
        arrays = self.backend.asarray(tree, dtype)
        return tree_map(_read_only, arrays) if "read_only" in self.tags else arrays

    def host(self, tree: Any) -> Any:
        return self.backend.to_numpy(tree)

    def module(self, module: Any) -> Any:
        """The module, or one whose methods run inside jax.jit."""
        return Jitted(module) if "jit" in self.tags else module

    def function(self, function: Callable) -> Callable:
        """A function of arrays, jitted where the subject says so."""
        return _jitted(function) if "jit" in self.tags else function

    def optimized(self, function: Callable) -> Callable:
        """The same, compiled as it is for users: see `compile_quickly`."""
        if "jit" not in self.tags:
            return function
        import jax

        return jax.jit(function, compiler_options=OPTIMIZED if os.environ.get("XLA_FLAGS") == QUICK else None)

    def close(self, actual: Any, expected: Any, tolerance: str, dtype: str, name: str = "actual") -> None:
        """Of this subject's namespace and device, of this dtype, of the shape and near the values of a host array."""
        key = (tolerance, dtype)
        error = testing.assert_close(actual, expected, tolerance, like=self._like(dtype), name=name)
        MEASURED[key] = max(MEASURED.get(key, 0.0), error)

    def equal(self, actual: Any, expected: Any, dtype: str, name: str = "actual") -> None:
        """The same, to the bit."""
        testing.assert_equal(actual, expected, like=self._like(dtype), name=name)

    def formed(self, array: Any, dtype: str, shape: tuple[int, ...]) -> None:
        """Of this subject's namespace and device, of this dtype and shape; before anybody looks at values."""
        like = self._like(dtype)
        assert backend_of(array) is self.backend
        assert str(array.device) == str(like.device)
        assert array.dtype == like.dtype
        assert tuple(array.shape) == tuple(shape)

    def _like(self, dtype: str) -> Any:
        return self.backend.asarray(0.0, dtype)


def near(actual: Any, expected: Any, tolerance: str, name: str = "actual", dtype: str = "float64") -> None:
    """Numbers or arrays on the host, of whose form nothing is asked."""
    error, limit = testing.largest_error(actual, expected), testing.TOLERANCES[tolerance, dtype].limit
    assert error <= limit, f"{name}: error {error:.3g}; expected at most {limit:.3g}"
    MEASURED[tolerance, dtype] = max(MEASURED.get((tolerance, dtype), 0.0), error)


def _read_only(array: np.ndarray) -> np.ndarray:
    array = array.view()
    array.flags.writeable = False
    return array


class Jitted:
    """A module seen through jax.jit: the same methods, traced as a whole, once for each kind of arguments."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return _jitted(_call, 0)(self._module, *arguments, **options)

    def forward(self, *arguments: Any, **options: Any) -> Any:
        return _jitted(_forward, 0)(self._module, *arguments, **options)

    def backward(self, *arguments: Any, **options: Any) -> Any:
        return _jitted(_backward, 0)(self._module, *arguments, **options)

    def step(self, *arguments: Any, **options: Any) -> Any:
        return _jitted(_step, 0)(self._module, *arguments, **options)


def _call(module: Any, *arguments: Any, **options: Any) -> Any:
    return module(*arguments, **options)


def _forward(module: Any, *arguments: Any, **options: Any) -> Any:
    return module.forward(*arguments, **options)


def _backward(module: Any, *arguments: Any, **options: Any) -> Any:
    return module.backward(*arguments, **options)


def _step(module: Any, *arguments: Any, **options: Any) -> Any:
    return module.step(*arguments, **options)


@functools.cache
def _jitted(function: Callable, *static: int) -> Callable:
    import jax

    return jax.jit(function, static_argnums=static)


TAGS = {
    "strided": "arrays may be views with strides",
    "read_only": "arrays cannot be written to",
    "jit": "functions run inside jax.jit",
    "concrete": "values can be looked at",
    "compiles": "each new shape costs about a second: the suite asks less of it where the code is the same",
}

ALL = {
    subject.name: subject
    for subject in (
        Subject("numpy", "numpy", frozenset({"strided", "concrete"})),
        Subject("numpy_readonly", "numpy", frozenset({"strided", "concrete", "read_only"})),
        Subject("strict", "array_api_strict", frozenset({"strided", "concrete"})),
        Subject("jax", "jax", frozenset({"concrete", "compiles"})),
        Subject("jax_jit", "jax", frozenset({"jit", "compiles"})),
        Subject("cupy", "cupy", frozenset({"strided", "concrete"})),
        Subject("torch", "torch", frozenset({"strided", "concrete"})),
    )
}

# XLA spends most of the suite's time on making fast what runs once. Without that it compiles six times faster; what is
# compiled as for users, `Subject.optimized` says.
QUICK = " ".join(
    (
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
    )
)
OPTIMIZED = {
    "xla_backend_optimization_level": 3,
    "xla_cpu_use_fusion_emitters": True,
    "xla_cpu_parallel_codegen_split_count": 32,
}


def compile_quickly() -> None:
    """Set XLA's flags, unless somebody has or this version does not know them: it would end the process."""
    if "XLA_FLAGS" in os.environ:  # from pytest-xdist's main process too
        return
    probe = [sys.executable, "-c", "import jax; jax.devices()"]
    known = subprocess.run(probe, env=os.environ | {"XLA_FLAGS": QUICK}, capture_output=True, check=False)
    if known.returncode == 0:
        os.environ["XLA_FLAGS"] = QUICK


VARIABLE = "POLYRNN_TEST_SUBJECTS"


def asked_for() -> tuple[str, ...] | None:
    """The subjects that must run, if somebody said so."""
    text = os.environ.get(VARIABLE)
    return None if not text else tuple(name.strip() for name in text.split(",") if name.strip())


@functools.cache
def running() -> tuple[Subject, ...]:
    """The subjects of this run: those asked for, else all that can run here."""
    asked = asked_for()
    if asked is not None:
        return tuple(ALL[name] for name in asked if name in ALL)
    return tuple(subject for subject in ALL.values() if subject.why_not() is None)


def with_kernels(subjects: tuple[Subject, ...]) -> tuple[Subject, ...]:
    """Each subject with the reference, and again with each kernel that is registered for its library."""
    result: list[Subject] = []
    for subject in subjects:
        result.append(subject)
        result += [replace(subject, kernel=name) for name in kernels_of(subject.library)]
    return tuple(result)


def kernels_of(library: str) -> tuple[str, ...]:
    """The names of the kernels that are registered for a library."""
    return kernels.registered(library)


@contextlib.contextmanager
def only_kernel(name: str | None) -> Iterator[None]:
    """This kernel where it applies, or none."""
    with pr.use_kernels(name or False):
        assert set(pr.kernels_in_use().values()) == ({name} if name else set())
        yield


def vary(keep: Callable[..., bool], **axes: Any) -> pytest.MarkDecorator:
    """Parametrize a test by subject and by `axes`, but for the combinations that `keep` refuses."""
    values = itertools.product(*(list(axis) for axis in axes.values()))
    found = [(subject, *row) for row in values for subject in with_kernels(running()) if keep(subject, *row)]
    return pytest.mark.parametrize(("subject", *axes), [param(*row) for row in found], indirect=["subject"])


def param(subject: Subject, *others: Any) -> Any:
    """A parameter set that starts with a subject; the mark is for `tox -e torch`."""
    marks = (pytest.mark.torch,) if subject.library == "torch" else ()
    return pytest.param(subject, *others, marks=marks, id="-".join(str(part) for part in (subject, *others)))


def tagged(tag: str, kernels: bool = True) -> pytest.MarkDecorator:
    """Run a test on those subjects alone that have a tag."""
    found = tuple(subject for subject in running() if tag in subject.tags)
    found = with_kernels(found) if kernels else found
    return pytest.mark.parametrize("subject", [param(subject) for subject in found], indirect=True)


@pytest.fixture(params=[param(subject) for subject in running()])
def without_kernels(request: pytest.FixtureRequest) -> Subject:
    """Each subject of this run, without its kernels, for files with whose tests kernels have nothing to do.

    `subject = subjects.without_kernels` puts it in the place of the fixture of that name in conftest.py.
    """
    request.node.user_properties.append(("subject", request.param.name))
    return request.param
