"""The documents say what the code says: equations, links, code blocks and examples."""

import ast
import importlib.util
import io
import os
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.find_spec("polyrnn")
assert SPEC is not None, "polyrnn is neither installed nor on the path"
PACKAGE = Path(SPEC.submodule_search_locations[0])

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for folder in (".", "docs", "examples")
    for path in sorted((ROOT / folder).glob("*.md"))
}
CELLS = {  # a file of polyrnn/cells, its heading in docs/derivations.md
    "rnn": "RNN",
    "lstm": "LSTM",
    "gru": "GRU",
    "lstm_variant": "LSTM variant",
    "gru_variant": "GRU variant",
}
KERNELS = ("rnn", "lstm", "gru")
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# The others need NumPy alone.
NEEDS = {"docs/jax.md": ("jax",), "with_optax": ("jax", "optax"), "fine_tune": ("jax", "optax")}

NUMBER = re.compile(r"\((\d+)\)")
FENCE = re.compile(r"^```(.*?)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def test_the_documents_are_there():
    assert {"docs/notation.md", "docs/derivations.md", "docs/architecture.md", "examples/README.md"} <= PAGES.keys()
    assert {path.name for path in EXAMPLES} >= {"classify.py", "three_backends.py", "textbook.py"}
    assert {path.stem for path in (PACKAGE / "cells").glob("[!_]*.py")} == CELLS.keys()


# ---- equations -----------------------------------------------------------------------------


def docstring_of(cell: str) -> str:
    return ast.get_docstring(ast.parse((PACKAGE / "cells" / f"{cell}.py").read_text("utf-8")))


def normal(line: str) -> str:
    return " ".join(line.split())


def equations(docstring: str) -> list[str]:
    """The lines of a docstring's indented blocks."""
    return [normal(line) for line in docstring.splitlines() if line.startswith("    ") and line.strip()]


def numbers(lines: list[str]) -> list[int]:
    """The numbers that lines begin with."""
    return [int(found[1]) for line in lines if (found := NUMBER.match(line))]


def used(source: str) -> set[int]:
    """The numbers of equations in a cell's comments, and in the docstrings of its functions ("(2) to (4)")."""
    result = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            result |= {int(number) for number in NUMBER.findall(token.string)}
    for first, last in re.findall(r'"""Equations? \((\d+)\)(?: (?:to|and) \((\d+)\))?', source):
        result |= set(range(int(first), int(last or first) + 1))
    return result


def section(page: str, heading: str) -> str:
    """The text under a heading of the second level."""
    parts = re.split(r"^## (.*)$", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[heading]


@pytest.mark.parametrize("cell", CELLS)
def test_a_cells_equations_are_those_of_the_derivations(cell):
    source = (PACKAGE / "cells" / f"{cell}.py").read_text("utf-8")
    stated = equations(docstring_of(cell))
    in_order = list(range(1, max(numbers(stated)) + 1))
    assert numbers(stated) == in_order, "the docstring's numbers"
    assert used(source), "no comment carries a number"
    assert used(source) <= set(in_order), "a comment's number that the docstring lacks"

    page = section(PAGES["docs/derivations.md"], CELLS[cell])
    written = [normal(line) for _, block in FENCE.findall(page)[:1] for line in block.splitlines() if line.strip()]
    assert written == stated, "the derivations' equations, word for word those of the docstring"
    explained = {int(n) for item in re.findall(r"^- (.*?)$", page, re.MULTILINE) for n in bold_numbers(item)}
    assert explained == set(in_order), "each equation has its explanation"


def test_the_kernels_numbers_are_those_of_the_cells():
    source = (PACKAGE / "kernels" / "_numpy.py").read_text("utf-8")
    lines, classes = source.splitlines(), [n for n in ast.parse(source).body if isinstance(n, ast.ClassDef)]
    kernels = {n.name: "\n".join(lines[n.lineno - 1 : n.end_lineno]) for n in classes}  # with the last comment
    for cell, name in ((cell, CELLS[cell]) for cell in KERNELS):
        stated = numbers(equations(docstring_of(cell)))
        assert used(kernels[name]), f"{name}: no comment carries a number"
        assert used(kernels[name]) <= set(stated), f"{name}: a number that {cell}.py lacks"


def bold_numbers(item: str) -> list[int]:
    """The numbers that an item of a list explains: **(8)** and **(9)**, or **(1)** to **(4)**."""
    found = [int(number) for number in re.findall(r"\*\*\((\d+)\)\*\*", item)]
    if re.match(r"\*\*\(\d+\)\*\* to \*\*\(\d+\)\*\*", item):
        return list(range(found[0], found[1] + 1))
    return found


def test_numbers_are_found():
    source = '"""Equations (2) to (4)."""\nx = 1  # (7)\ny = "(9)"  # why: see (11)\n'
    assert used(source) == {2, 3, 4, 7, 11}
    assert equations("Text (1)\n\n    (1)  a = b\n         c = d\n") == ["(1) a = b", "c = d"]
    assert numbers(["(1) a = b (2)", "c = (3)"]) == [1]
    assert bold_numbers("**(1)** to **(4)** are") == [1, 2, 3, 4]
    assert bold_numbers("**(8)** and **(9)** are, from (3)") == [8, 9]


# ---- links ---------------------------------------------------------------------------------


def anchors(page: str) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken(name: str, page: str) -> list[str]:
    """The links of a page that lead nowhere."""
    result = []
    for link in LINK.findall(FENCE.sub("", page)):
        if re.match(r"[a-z]+:", link):
            continue  # the web is not asked
        target, _, anchor = link.partition("#")
        path = (ROOT / name).parent / target if target else ROOT / name
        exists = path.exists() and path.resolve().is_relative_to(ROOT)
        if not exists or (anchor and anchor not in anchors(path.read_text("utf-8"))):
            result.append(link)
    return result


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    assert broken(name, PAGES[name]) == []


def test_broken_links_are_found():
    page = "[1](#letters) [2](#c) [3](derivations.md#lstm) [4](derivations.md#no) [5](no.md) [6](https://no.example)"
    assert broken("docs/notation.md", page) == ["#c", "derivations.md#no", "no.md"]
    assert anchors("# A b, `c`\n## One call, from the door\n") == {"a-b-c", "one-call-from-the-door"}


# ---- code ----------------------------------------------------------------------------------


# What must hold after the blocks of pages that assert nothing themselves.
LEFT = {
    "README.md": lambda n: float(n["loss"]) < 0.5 and set(n["grads"].params) == set(n["lstm"].shapes()),
    "docs/architecture.md": lambda n: n["y"].shape == (7, 2, 5) and not n["y"][4:, 1].any() and n["grads"].x[0].any(),
}


def need(name: str) -> None:
    """Skip, with the reason, where a page or an example lacks a library."""
    for library in NEEDS.get(name, ()):
        pytest.importorskip(library, reason=f"{name} needs {library}, which is not installed")


@pytest.mark.parametrize("name", [name for name in PAGES if "```python\n" in PAGES[name]])
def test_code_blocks_run(name, monkeypatch):
    """The Python blocks of a page, one after another in one namespace."""
    need(name)
    monkeypatch.syspath_prepend(ROOT / "examples")  # a page may import from them
    page, namespace, found = PAGES[name], {"__name__": "page"}, 0
    for block in FENCE.finditer(page):
        if block[1] == "python":
            before = page[: block.start(2)].count("\n")
            exec(compile("\n" * before + block[2], str(ROOT / name), "exec"), namespace)
            found += 1
    assert found == page.count("```python"), "a block that is indented or not closed has not run"
    if name in LEFT:
        assert LEFT[name](namespace)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(path):
    need(path.stem)
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "POLYRNN_BACKEND": "numpy"}
    command = [sys.executable, "-W", "error", str(path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert not result.stderr
