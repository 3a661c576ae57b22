"""The rules of the house, checked on the syntax tree and in a fresh interpreter.

Each rule is a function of source text that lists violations. The package must have none; at the end of the
file violations of every kind are planted, each of which the rules must find.
"""

import ast
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import polyrnn

SPEC = importlib.util.find_spec("polyrnn")
assert SPEC is not None, "polyrnn is neither installed nor on the path"
PACKAGE = Path(SPEC.submodule_search_locations[0])
SOURCES = {path.relative_to(PACKAGE).as_posix(): path.read_text("utf-8") for path in PACKAGE.rglob("*.py")}

# ---- the tables ----------------------------------------------------------------------------

# Beside what `polyrnn.__all__` names, these modules are public.
PUBLIC_MODULES = {"cells", "functional", "gradcheck", "initializers", "interop", "testing"}

# `import polyrnn` leaves these alone.
NOT_IMPORTED = (
    "jax",
    "jaxlib",
    "cupy",
    "torch",
    "matplotlib",
    "typer",
    "rich",
    "array_api_strict",
    "scipy",
    "hypothesis",
)

# The direction of dependency: a module may import modules of lower rows only, and its own sub-package.
ROWS = (
    {"__main__"},
    {"cli"},
    {"__init__"},
    {"capabilities"},
    {"gradcheck", "testing"},
    {"interop"},
    {"model"},
    {"checkpoint"},
    {"functional", "truncated"},
    {"training"},
    {"_textbook", "layers"},
    {"_recurrent"},
    {"_pure"},
    {"modules", "pooling"},
    {"_module"},
    {"losses"},
    {"stack"},
    {"recurrence"},
    {"kernels"},
    {"cells"},
    {"clipping", "optimizers"},
    {"activations", "data", "initializers", "masks", "schedules"},
    {"_door", "_safetensors"},
    {"backends"},
)
RANK = {name: rank for rank, row in enumerate(reversed(ROWS)) for name in row}

LIBRARIES = {
    "jax",
    "jaxlib",
    "cupy",
    "cupyx",
    "torch",
    "numba",
    "keras",
    "flax",
    "equinox",
    "onnx",
    "onnxruntime",
    "tensorflow",
}
MAY_NAME = {  # where a library may be imported; elsewhere none
    "backends": LIBRARIES,
    "kernels": {"numba", "cupy", "cupyx"},
    "interop": LIBRARIES,
}
WITHOUT_NUMPY = ("cells", "activations", "losses", "recurrence", "stack", "pooling", "clipping", "optimizers")
PURE = ("cells", "activations", "losses", "pooling")  # the reference mathematics: nothing is written into an array
BACKENDS = {"numpy", "cupy", "jax", "torch", "array_api_strict"}
MAY_COMPARE_NAMES = ("backends", "cli")


# ---- what the rules are made of ------------------------------------------------------------


def home(file: str) -> str:
    """The row's name of a file: cells/lstm.py -> cells, losses.py -> losses."""
    return file.partition("/")[0].removesuffix(".py")


def sources(*homes: str) -> list[str]:
    """The files that belong to these names, sorted; all files if none is given."""
    return sorted(file for file in SOURCES if not homes or home(file) in homes)


def imports(source: str, file: str) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of everything that a file imports, in functions and by importlib too."""
    package = ("polyrnn", *file.split("/")[:-1])

    def absolute(name: str, level: int) -> str:
        return ".".join((*package[: len(package) - level + 1], name) if level else (name,)).strip(".")

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = absolute(node.module or "", node.level)
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and name_of(node.func) in (
            "import_module",
            "__import__",
            "importorskip",
        ):
            name = node.args[0] if node.args else None
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                bare = name.value.lstrip(".")
                yield node.lineno, absolute(bare, len(name.value) - len(bare))


def name_of(node: ast.AST) -> str:
    """The last name of a dotted expression: f and a.b.f -> f."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


# ---- the rules -----------------------------------------------------------------------------


def named_libraries(source: str, file: str) -> list[str]:
    """Array libraries and frameworks are imported only where the table says so."""
    forbidden = LIBRARIES - MAY_NAME.get(home(file), set())
    return [
        f"{file}:{line}: imports {name}; a library is named in {', '.join(MAY_NAME)} only"
        for line, name in imports(source, file)
        if forbidden & set(name.split("."))  # also array_api_compat.cupy
        and not name.startswith("polyrnn.")
    ]


def numpy_imports(source: str, file: str) -> list[str]:
    """The mathematics takes `xp` and knows no library, NumPy included."""
    return [
        f"{file}:{line}: imports {name}; this file works on any namespace, which it is given"
        for line, name in imports(source, file)
        if name.split(".")[0] in ("numpy", "array_api_compat", "array_api_strict")
    ]


def writes(source: str, file: str) -> list[str]:
    """No augmented assignment, no `out=`, no assignment to or deletion of an item."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.AugAssign):
            found.append((node.lineno, "augmented assignment"))
        elif isinstance(node, ast.keyword) and node.arg == "out":
            found.append((node.value.lineno, "out="))
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            found.append((node.lineno, "assignment to an item, or its deletion"))
    return [f"{file}:{line}: {what}; the mathematics rebinds and never writes" for line, what in found]


def upward_imports(source: str, file: str) -> list[str]:
    """A file imports only what stands below it."""
    here = home(file)
    if here not in RANK:
        return [f"{file}: not in ROWS; give it a place in the direction of dependency"]
    found = []
    for line, name in imports(source, file):
        root, _, rest = name.partition(".")
        if root != "polyrnn":
            continue
        first = rest.partition(".")[0]
        is_module = first in RANK or f"{first}.py" in SOURCES or f"{first}/__init__.py" in SOURCES
        there = first if is_module else "__init__"
        if there not in RANK:
            found.append(f"{file}:{line}: imports {name}, which is not in ROWS")
        elif RANK[there] >= RANK[here] and not (there == here and "/" in file):
            found.append(f"{file}:{line}: imports {name}, which does not stand below {here}")
    return found


def name_branches(source: str, file: str) -> list[str]:
    """No branch on a backend's name: a fast path is a registered kernel, a difference is in the seam."""

    def names_backend(node: ast.AST) -> bool:
        """Whether an operand holds "numpy", "jax.numpy", ("numpy", "cupy"), ..."""
        return any(
            isinstance(leaf, ast.Constant)
            and isinstance(leaf.value, str)
            and bool(BACKENDS & set(leaf.value.split(".")))
            for leaf in (node, *getattr(node, "elts", ()))
        )

    found = []
    for node in ast.walk(ast.parse(source)):
        operands: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            operands = [node.value]
        elif isinstance(node, ast.Call) and name_of(node.func) in ("startswith", "endswith"):
            operands = list(node.args)
        found += [node.lineno for _ in filter(names_backend, operands)]
    return [f"{file}:{line}: compares with a backend's name; there is no branch on it" for line in found]


# ---- the package ---------------------------------------------------------------------------


def check(rule: Callable[[str, str], list[str]], files: list[str]) -> None:
    problems = [problem for file in files for problem in rule(SOURCES[file], file)]
    assert not problems, "\n".join(problems)


def test_the_package_is_there():
    assert {"__init__.py", "cells/__init__.py", "backends/__init__.py"} <= SOURCES.keys()
    assert (PACKAGE / "py.typed").is_file()
    for cell in ("rnn", "lstm", "gru"):
        assert f"cells/{cell}.py" in SOURCES


def test_libraries_are_named_only_in_the_seam():
    check(named_libraries, sources())


def test_the_mathematics_does_not_import_numpy():
    check(numpy_imports, sources(*WITHOUT_NUMPY))


def test_the_mathematics_does_not_write():
    check(writes, sources(*PURE))


def test_imports_point_downward():
    check(upward_imports, sources())


def test_no_branch_on_a_backends_name():
    check(name_branches, [file for file in sources() if home(file) not in MAY_COMPARE_NAMES])


def after(statement: str, expression: str) -> object:
    """What `expression` is in a fresh interpreter after `statement`; through JSON."""
    code = f"import json, sys\n{statement}\nprint(json.dumps({expression}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


PUBLIC_HERE = sorted(name for name in PUBLIC_MODULES if {f"{name}.py", f"{name}/__init__.py"} & SOURCES.keys())


@pytest.mark.parametrize("module", ["polyrnn", *(f"polyrnn.{name}" for name in PUBLIC_HERE)])
def test_import_leaves_optional_libraries_alone(module):
    assert after(f"import {module}", f"[name for name in {NOT_IMPORTED} if name in sys.modules]") == []


def test_only_public_names_are_visible():
    """`dir(polyrnn)` is what users see in a notebook: `__all__`, and of its modules the public ones."""
    statement = "import polyrnn, types\nvisible = [n for n in dir(polyrnn) if not n.startswith('_')]"
    modules = after(statement, "[n for n in visible if isinstance(getattr(polyrnn, n), types.ModuleType)]")
    assert set(modules) <= PUBLIC_MODULES, f"visible, but not public: {sorted(set(modules) - PUBLIC_MODULES)}"
    missing = after("import polyrnn", f"[n for n in {PUBLIC_HERE} if not hasattr(polyrnn, n)]")
    assert missing == [], f"polyrnn.{missing[0]} takes an import of its own"
    stray = after(statement, "sorted(set(visible) - set(polyrnn.__all__))")
    assert set(stray) <= PUBLIC_MODULES, f"visible, but not in __all__: {sorted(set(stray) - PUBLIC_MODULES)}"
    assert after("import polyrnn", "[n for n in polyrnn.__all__ if not hasattr(polyrnn, n)]") == []


@pytest.mark.parametrize("module", PUBLIC_HERE)
def test_a_public_module_says_what_it_offers(module):
    """Its `__all__` holds its functions and classes, and nothing that is not there."""
    name = f"polyrnn.{module}"
    statement = f"import importlib\nm = importlib.import_module('{name}')"
    own = f"[n for n, v in vars(m).items() if n[0] != '_' and getattr(v, '__module__', '').startswith('{name}')]"
    assert set(after(statement, own)) <= set(after(statement, "m.__all__")), "not in __all__"
    assert after(statement, "[n for n in m.__all__ if not hasattr(m, n)]") == []


# ---- tests of the rules --------------------------------------------------------------------

PLANTED = {
    named_libraries: [
        ("layers.py", "import jax"),
        ("layers.py", "import jax.numpy as jnp"),
        ("layers.py", "def f():\n    from torch import nn"),
        ("cells/lstm.py", "import array_api_compat.cupy as xp"),
        ("cells/lstm.py", "from array_api_compat import torch"),
        ("gradcheck.py", "import importlib\njax = importlib.import_module('jax')"),
        ("cli/train.py", "jax = __import__('jax')"),
        ("kernels/fused.py", "import jax"),
        ("__init__.py", "try:\n    import cupy\nexcept ImportError:\n    pass"),
    ],
    numpy_imports: [
        ("cells/lstm.py", "import numpy as np"),
        ("recurrence.py", "from numpy.linalg import norm"),
        ("optimizers.py", "def f():\n    import numpy"),
        ("losses.py", "from array_api_compat import array_namespace"),
    ],
    writes: [
        ("losses.py", "a += b"),
        ("losses.py", "a[0] += b"),
        ("losses.py", "a.data *= 2"),
        ("cells/rnn.py", "xp.tanh(a, out=b)"),
        ("cells/rnn.py", "a[..., 0] = b"),
        ("cells/rnn.py", "(a, b[0]) = c"),
        ("cells/rnn.py", "a[0]: float = b"),
        ("cells/rnn.py", "del a['h']"),
        ("activations.py", "for a[0] in b:\n    pass"),
        ("activations.py", "with b as a[0]:\n    pass"),
    ],
    upward_imports: [
        ("cells/lstm.py", "from ..layers import LSTM"),
        ("cells/lstm.py", "from .. import layers"),
        ("cells/lstm.py", "from .. import LSTM"),
        ("backends/_numpy.py", "from ..activations import tanh"),
        ("backends/_numpy.py", "import polyrnn.cells"),
        ("kernels/__init__.py", "from polyrnn.recurrence import forward"),
        ("recurrence.py", "def f():\n    from . import functional"),
        ("layers.py", "import polyrnn"),
        ("layers.py", "from polyrnn import *"),
        ("modules.py", "from importlib import import_module\nimport_module('polyrnn.layers')"),
        ("cells/__init__.py", "import importlib\nimportlib.import_module('..layers', __package__)"),
        ("schedules.py", "from .initializers import uniform"),
        ("nowhere.py", "import math"),
    ],
    name_branches: [
        ("layers.py", "if backend.name == 'numpy':\n    pass"),
        ("layers.py", "f = a if 'jax' != name else b"),
        ("layers.py", "fast = backend.name in ('numpy', 'cupy')"),
        ("layers.py", "fast = backend.name not in {'jax'}"),
        ("recurrence.py", "slow = 'cupy' in xp.__name__"),
        ("recurrence.py", "slow = xp.__name__ == 'jax.numpy'"),
        ("recurrence.py", "slow = xp.__name__.startswith('jax')"),
        ("kernels/__init__.py", "match name:\n    case 'cupy':\n        pass"),
    ],
}
ALLOWED = {
    named_libraries: [
        ("backends/_jax.py", "def f():\n    import jax"),
        ("kernels/fused.py", "import cupyx\nimport numba"),
        ("interop/torch.py", "def f():\n    import torch"),
        ("__init__.py", "from .interop import torch"),
        ("layers.py", "import numpy\nimport math"),
    ],
    numpy_imports: [("cells/lstm.py", "from typing import Any\nfrom ..activations import tanh")],
    writes: [("cells/lstm.py", "a = a + b[0]\nc, d = e\nf = {'h': a}\ng(outer=a)")],
    upward_imports: [
        ("cells/lstm.py", "from ._cell import Cell\nfrom ..activations import tanh"),
        ("layers.py", "from . import recurrence\nfrom .backends import backend_of\nimport math"),
        ("__init__.py", "from .functional import softmax\nfrom . import gradcheck"),
        ("cli/check.py", "import polyrnn as pr\nfrom polyrnn import LSTM"),
        ("cli/check.py", "from ..gradcheck import check\nfrom . import info"),
        ("gradcheck.py", "from .layers import LSTM"),
    ],
    name_branches: [
        ("layers.py", "backend = pr.backend('numpy')"),
        ("layers.py", "ok = nonlinearity == 'tanh'"),
        ("kernels/__init__.py", "KERNELS = {('numpy', 'lstm'): f}\nk = KERNELS.get((backend.name, cell))"),
    ],
}


def cases(table: dict) -> list:
    return [
        pytest.param(rule, file, source, id=f"{rule.__name__}-{file}-{n}")
        for rule, examples in table.items()
        for n, (file, source) in enumerate(examples)
    ]


@pytest.mark.parametrize(("rule", "file", "source"), cases(PLANTED))
def test_a_planted_violation_is_found(rule, file, source):
    assert rule(source, file), f"{rule.__name__} overlooks this in {file}:\n{source}"


@pytest.mark.parametrize(("rule", "file", "source"), cases(ALLOWED))
def test_what_is_allowed_is_not_found(rule, file, source):
    assert rule(source, file) == []


def test_a_planted_import_is_seen_in_the_interpreter():
    assert after("import wsgiref", "[name for name in ('wsgiref', 'jax') if name in sys.modules]") == ["wsgiref"]


def test_what_is_imported_late_is_what_type_checkers_see():
    tree = ast.parse(SOURCES["__init__.py"])
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    seen = {statement.module: {alias.name for alias in statement.names} for statement in block.body}
    assert {module: set(names) for module, names in polyrnn._NAMES.items()} == seen
    assert set().union(*seen.values()) <= set(polyrnn.__all__)


def test_import_brings_only_what_layers_need():
    late = sorted(polyrnn._NAMES)
    assert after("import polyrnn", f"[n for n in {late} if 'polyrnn.' + n in sys.modules]") == []
    assert after("import polyrnn", "'safetensors' in sys.modules") is False
