"""`polyrnn check`: what it says, what it writes and how it exits."""

import dataclasses
import io
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import polyrnn as pr
from polyrnn import capabilities, kernels
from polyrnn.cells import LSTMCell

typer = pytest.importorskip("typer")
pytest.importorskip("rich")

from polyrnn.cli import _matrix  # noqa: E402

BY_NAME = {subject.name: subject for subject in capabilities.SUBJECTS}
FEW = tuple(BY_NAME[name] for name in ("RNN relu", "GRU reset before, lengths", "Linear", "mean squared error"))


@pytest.fixture
def run(monkeypatch):
    """The command on a few subjects: run(*arguments, subjects=...) -> exit code, what it printed."""
    from typer.testing import CliRunner

    from polyrnn.cli._app import app

    def run(*arguments, subjects=FEW):
        monkeypatch.setattr(_matrix, "SUBJECTS", subjects)
        monkeypatch.setattr(capabilities, "SUBJECTS", subjects)
        result = CliRunner().invoke(app, ["check", *map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    return run


def planted(name, factor):
    """A subject whose hand-written gradient of x is wrong by a factor."""
    subject = BY_NAME[name]

    def problem(seed):
        right = subject.problem(seed)

        def by_hand(chosen, inputs, upstream):
            outputs, gradients = right.by_hand(chosen, inputs, upstream)
            return outputs, gradients | {"x": gradients["x"] * factor}

        return dataclasses.replace(right, by_hand=by_hand)

    return subject._replace(name=f"{name} with <an error>", problem=problem)


def broken(name):
    """A subject that raises."""

    def problem(seed):
        def by_hand(chosen, inputs, upstream):
            raise ArithmeticError("it broke\nand how")

        return dataclasses.replace(BY_NAME[name].problem(seed), by_hand=by_hand)

    return BY_NAME[name]._replace(name="broken", problem=problem)


def test_what_is_right(run):
    code, output = run("-b", "numpy")
    assert code == 0, output
    for subject in FEW:
        assert f"\n{subject.name} " in output
    assert "All gradients are right: 4 subjects" in output
    assert "Agreement is not proof" in output
    assert "WRONG" not in output
    assert "\x1b" not in output  # not a terminal: no colours, no boxes
    assert not re.search("[│─┃━]", output)
    assert all(len(line) == len(line.rstrip()) for line in output.splitlines())


def test_a_planted_error_gives_exit_code_1_and_its_place(run, tmp_path):
    page = tmp_path / "page.html"
    code, output = run("-b", "numpy", "--report", page, subjects=(*FEW, planted("LSTM", 1.001)))
    assert code == 1
    assert "comparisons are WRONG" in output
    assert re.search(r"WRONG: LSTM with <an error>, complex step: 1.0e-03 in x at \[\d, \d, \d\]", output)
    assert "All gradients are right" not in output
    text = page.read_text("utf-8")
    assert 'class="verdict wrong"' in text
    assert "✗ 1e-03" in text
    assert "<an error>" not in text


def test_agreement_alone_does_not_save_a_wrong_gradient(run):
    code, output = run("-b", "numpy", subjects=(planted("LSTM", -1.0),))
    wrong = [line for line in output.splitlines() if line.startswith("WRONG")]
    assert code == 1
    assert len(wrong) >= 2
    assert all("float" not in line for line in wrong)  # the backends agree on the wrong sign


@pytest.mark.parametrize("name", kernels.registered("numpy"))
def test_each_kernel_is_compared_by_its_name(run, monkeypatch, name):
    kernel = type(kernels._open(name, LSTMCell))
    right = kernel.backward

    def backward(*arguments):
        sums, dx, dstate = right(*arguments)
        return sums, dx * 1.001, dstate

    monkeypatch.setattr(kernel, "backward", backward)
    code, output = run("-b", "numpy", subjects=(BY_NAME["LSTM"],))
    wrong = {
        line.removeprefix("WRONG: ").partition(":")[0] for line in output.splitlines() if line.startswith("WRONG: ")
    }
    assert code == 1
    assert wrong == {f"LSTM, {name} {dtype}" for dtype in ("float64", "float32")}


def test_columns_of_kernels_stand_with_their_backend():
    found = [column.label for column in _matrix.columns(["numpy", "cupy"])[0] if column.part == _matrix.AGREEMENT]
    own = [(*name.split(" ", 1), dtype) for name in kernels.registered("numpy") for dtype in ("float64", "float32")]
    assert found[: len(own) + 1] == [("numpy", "float32"), *own]
    rest = [label[0] for label in found[len(own) + 1 :]]
    assert set(rest) <= {"cupy"}
    assert max(len(part) for label in found for part in label) <= 8


def test_an_exception_is_a_failure_of_one_row(run):
    code, output = run("-b", "numpy", subjects=(broken("LSTM"), *FEW))
    assert code == 1
    assert "WRONG: broken, complex step: ArithmeticError: it broke\n" in output
    assert re.search(r"^Linear +.*e-1\d", output, re.MULTILINE)


def test_nan_is_a_failure(run):
    code, output = run("-b", "numpy", subjects=(planted("LSTM", np.nan),))
    assert code == 1
    assert "NaN or infinite" in output


def test_what_could_not_run_is_listed(run):
    _, output = run()
    for name, found in pr.available_backends().items():
        assert (f"Not run: {name}" in output) == (not found.available)
    assert "A dash where a column does not apply" in output


def test_the_seed_changes_the_numbers_and_repeats_them(run):
    def tables(*arguments):
        return run("-b", "numpy", *arguments, subjects=FEW[:2])[1].partition("All gradients")[0]

    assert tables("--seed", 5) == tables("--seed", 5)
    assert tables("--seed", 5) != tables("--seed", 6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--backend", "nunpy"), "no such backend"),
        (("--seed", "-1"), "-1; expected"),
        (("--seed", "x"), "valid integer"),
        (("--report", "{folder}"), "is a folder"),
        (("--report", "{folder}/nowhere/page.html"), "there is no folder"),
        (("--sed", "1"), "No such option"),
    ],
)
def test_bad_usage_gives_exit_code_2(run, tmp_path, arguments, words):
    code, output = run(*(a.format(folder=tmp_path) for a in arguments))
    assert code == 2
    assert words in " ".join(re.sub("[│╭╮╰╯─]", " ", output).split())
    assert "Traceback" not in output
    assert not list(tmp_path.iterdir())


def test_a_backend_that_cannot_run_here_gives_exit_code_2(run):
    absent = [name for name, found in pr.available_backends().items() if not found.available]
    for name in absent:
        code, output = run("-b", name)
        assert code == 2
        assert "cannot run here" in " ".join(output.split())


def test_the_page(run, tmp_path):
    path = tmp_path / "page.html"
    code, output = run("-b", "numpy", "--report", path)
    assert code == 0
    assert f"Report: {path}" in output.replace("\n", "")
    assert [found.name for found in tmp_path.iterdir()] == ["page.html"]
    text = path.read_text("utf-8")
    assert not re.search(r"(src|href)=|@import|url\(", text)  # nothing but itself
    picture = ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    shown = " ".join("".join(node.itertext()) for node in picture.iter("{http://www.w3.org/2000/svg}text"))
    for words in (*(subject.name for subject in FEW), "complex", "in-place", "differences", "allowed", "wrong"):
        assert words in shown
    squares = [node for node in picture if node.tag.endswith("}g")]
    matrix_columns, _ = _matrix.columns(["numpy"])
    assert len(squares) == len(FEW) * len(matrix_columns)
    for words in ("polyrnn " + pr.__version__, "numpy " + np.__version__, "processors", "seed", "UTC", "not proof"):
        assert words in text


def test_a_report_is_replaced_whole(run, tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    run("-b", "numpy", "--report", path)
    assert path.read_text("utf-8").endswith("</html>\n")


def test_on_a_terminal(monkeypatch):
    from rich.console import Console

    from polyrnn.cli.check import show

    monkeypatch.setattr(_matrix, "SUBJECTS", (*FEW, planted("LSTM", 2.0)))
    matrix = _matrix.compute(["numpy"], 0, lambda name: None)
    for width in (60, 80, 200):
        file = io.StringIO()
        show(matrix, Console(file=file, force_terminal=True, width=width, color_system="standard"))
        text = re.sub(r"\x1b\[[\d;]*m", "", file.getvalue())
        assert "\x1b" in file.getvalue()
        assert "WRONG 5e-01" in text or "WRONG 1e+00" in text
        assert "LSTM with <an error>" in text
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= width


def test_a_matrix_in_which_a_subject_was_not_proved_is_not_ok():
    subject = FEW[0]
    columns, _ = _matrix.columns(["numpy"])
    nothing = {(subject.name, column.name): _matrix.Entry(None, True, "x") for column in columns}
    assert not _matrix.Matrix(columns, (subject,), nothing, {}).ok


def test_as_a_program():
    command = [sys.executable, "-m", "polyrnn", "check", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--report" in done.stdout
