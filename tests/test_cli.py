"""The command line: train, sample, evaluate and info on small models, and every kind of bad input."""

import csv
import importlib.util
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from subjects import near

import polyrnn as pr
from polyrnn import kernels

pytest.importorskip("typer", reason='the command line needs pip install "polyrnn[cli]"')
pytest.importorskip("rich")

from typer.testing import CliRunner

from polyrnn.cli._app import app
from polyrnn.cli._loop import Stop
from polyrnn.cli._model import known_prompt, load
from polyrnn.cli._progress import Lines, Report, left
from polyrnn.cli._threads import COMPILED, Threads
from polyrnn.cli.sample import choose
from polyrnn.cli.train import physical_memory

TEXT = "the quick brown fox jumps over the lazy dog\n" * 60
SMALL = ("--hidden-size", "24", "--embedding-size", "6", "--batch-size", "4", "--sequence-length", "16")
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(filter(None, (str(Path(pr.__file__).parent.parent), os.environ.get("PYTHONPATH")))),
    "COLUMNS": "100",
}
posix = pytest.mark.skipif(os.name != "posix", reason="signals and terminals of POSIX")


def run(*arguments):
    """A command in this process."""
    return CliRunner().invoke(app, [str(a) for a in arguments])


def start(*arguments, **options):
    """A command in a process of its own."""
    command = [sys.executable, "-m", "polyrnn", *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": ENVIRONMENT, **options}
    return subprocess.Popen(command, text=True, **options)


def refused(result, *words):
    """Exit code 2, one line on stderr that holds these words, nothing on stdout."""
    assert result.exit_code == 2, (result.exit_code, result.output)
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1, result.stderr
    assert all(str(word) in result.stderr for word in words), result.stderr
    assert result.stdout == ""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a text, and a model of it in `out`."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    result = run("train", folder / "text.txt", "--out", folder / "out", "--steps", 60, *SMALL)
    assert result.exit_code == 0, result.output
    (folder / "output.txt").write_text(result.stdout, encoding="utf-8")
    return folder


@pytest.fixture
def model(trained):
    return trained / "out" / "model.safetensors"


# ---- train ---------------------------------------------------------------------------------


def test_training_writes_a_model_a_history_and_a_curve(trained, model):
    output = (trained / "output.txt").read_text(encoding="utf-8")
    for words in ("2,640 characters", "LSTM of 24", "float32 on numpy", "bits/char", "chars/s", "60/60", "A sample"):
        assert words in output
    with open(trained / "out" / "history.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, 61))
    assert float(rows[0]["bits_per_character"]) == pytest.approx(math.log2(28), rel=0.1)
    assert float(rows[-1]["bits_per_character"]) < 0.5 * float(rows[0]["bits_per_character"])
    assert float(rows[-1]["learning_rate"]) < 0.001 < float(rows[10]["learning_rate"])
    held_back = [row["held_back_bits_per_character"] for row in rows]
    assert 4 <= sum(map(bool, held_back)) <= 8
    assert f"{float(held_back[-1]):.3f} bits per character" in output
    params, config = pr.load(model)
    assert config["cell"] == "lstm" and config["vocabulary"] == "".join(sorted(set(TEXT)))
    assert config["training"]["steps"] == 60 and config["training"]["seed"] == 0
    assert {array.dtype.name for array in params.values()} == {"float32"}
    names = {"model.safetensors", "history.csv"}
    if importlib.util.find_spec("matplotlib"):
        names.add("curve.png")
        assert (trained / "out" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (trained / "out").iterdir()} == names


@pytest.mark.parametrize(
    "options",
    [
        ("--cell", "gru", "--optimizer", "adamw", "--weight-decay", 0.01, "--schedule", "exponential"),
        ("--cell", "rnn", "--optimizer", "sgd", "--momentum", 0.5, "--schedule", "constant", "--clip-norm", 0),
        ("--dropout", 0.2, "--optimizer", "rmsprop", "--dtype", "float64", "--held-back", 0),
        ("--time", 1.0),
        ("--steps", 3, "--time", 60, "--warmup-steps", 2, "--sample-length", 0),
    ],
    ids=lambda options: " ".join(map(str, options[:2])),
)
def test_options_of_training(trained, tmp_path, options, monkeypatch):
    # A clock of its own, a hundredth of a second a look: nothing here depends on how fast the machine is.
    clock = itertools.count()
    monkeypatch.setattr("polyrnn.cli._loop.time", SimpleNamespace(perf_counter=lambda: next(clock) / 100))
    steps = () if "--time" in options else ("--steps", 40)
    result = run("train", trained / "text.txt", "--out", tmp_path / "new" / "out", *SMALL, *steps, *options)
    assert result.exit_code == 0, result.output
    with open(tmp_path / "new" / "out" / "history.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert ("Held back" in result.stdout) == ("--held-back" not in options)
    config = pr.load(tmp_path / "new" / "out" / "model.safetensors").config
    assert ("--cell" not in options) or config["cell"] == options[1]
    if options[0] == "--time":
        assert len(rows) > 5 and float(rows[-1]["seconds"]) < 3
        assert float(rows[-1]["learning_rate"]) < max(float(row["learning_rate"]) for row in rows)


def test_the_seed_decides(trained, tmp_path):
    def weights(name, *options):
        out = tmp_path / name
        result = run("train", trained / "text.txt", "--out", out, *SMALL, "--steps", 5, "--dropout", 0.1, *options)
        assert result.exit_code == 0, result.output
        return pr.load(out / "model.safetensors").params["head.weight"]

    first, again, other = weights("a"), weights("b"), weights("c", "--seed", 1)
    assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize("name", kernels.registered("numpy"))
def test_training_tells_its_kernel_and_bounds_its_threads(trained, tmp_path, monkeypatch, name):
    seen, shares = set(), kernels._threads.shares

    def watch(*arguments):
        seen.add(kernels._threads.threads())
        return shares(*arguments)

    monkeypatch.setattr(kernels._threads, "shares", watch)
    command = ("train", trained / "text.txt", *SMALL, "--steps", 2, "--sample-length", 0, "--threads", 1)
    with pr.use_kernels(name, threads=2):
        result = run(*command, "--out", tmp_path / "a")
        assert kernels._threads.threads() == 2
    assert result.exit_code == 0, result.output
    words = f"{name}, 1 thread" if name == COMPILED else name
    assert result.stdout.count("Kernels ") == 1 and f"Kernels   {words}\n" in result.stdout
    assert seen == ({1} if name == COMPILED else set())
    with pr.use_kernels(False):
        assert "Kernels" not in run(*command, "--out", tmp_path / "b").stdout
    with pr.use_kernels(name):  # which declines one step
        assert "Kernels" not in run(*command, "--sequence-length", 1, "--out", tmp_path / "c").stdout


def test_a_kernel_that_takes_long_to_be_ready_says_why_before_the_clock_starts(trained, tmp_path, monkeypatch):
    right = pr.value_and_grad

    def slow(*arguments, **options):
        def function(params, x, targets):
            time.sleep(0.2)
            assert x.shape == targets.shape == (4, 4)

        return right(*arguments, **options) if options else function  # with options a step of training calls it

    monkeypatch.setattr("polyrnn.training.value_and_grad", slow)
    monkeypatch.setattr("polyrnn.cli.train.PATIENCE", 0.01)
    options = ("--steps", 1, "--sample-length", 0, "--out", tmp_path)
    text, _, after = run("train", trained / "text.txt", *SMALL, *options).stdout.partition("1/1")
    assert "\n          compiling them, once on this machine\n          compiled in 0 s; kept for the next" in text
    assert after and "compil" not in after


def test_beside_compiled_kernels_blas_has_one_thread():
    blas = pytest.importorskip("threadpoolctl").ThreadpoolController().select(user_api="blas")
    with blas.limit(limits=2):
        for fixed in (None, 2):
            Threads(pr.backend("numpy"), 8, 4, fixed, SimpleNamespace(name=COMPILED))
            assert {library.num_threads for library in blas.lib_controllers} == {1}
        Threads(pr.backend("numpy"), 8, 4, 2, SimpleNamespace(name="numpy in-place"))
        assert {library.num_threads for library in blas.lib_controllers} == {2}


def test_jax_trains_the_same_model(trained, tmp_path):
    pytest.importorskip("jax")
    found = {}
    for backend in ("numpy", "jax"):
        options = ("--backend", backend, "--steps", 5, "--sample-length", 0, "--dtype", "float64", "--dropout", 0.1)
        result = run("train", trained / "text.txt", "--out", tmp_path / backend, *SMALL, *options)
        assert result.exit_code == 0, result.output
        assert f"float64 on {backend}" in result.stdout
        found[backend] = pr.load(tmp_path / backend / "model.safetensors").params
    for name, expected in found["numpy"].items():
        near(found["jax"][name], expected, "same", name)


def test_the_default_text_is_there(tmp_path):
    result = run("train", "--out", tmp_path, "--steps", 1, "--sample-length", 0, *SMALL, "--held-back", 0.002)
    assert result.exit_code == 0, result.output
    assert "the Python language reference" in result.stdout


def test_earlier_files_are_replaced_only_by_force(trained, tmp_path):
    command = ("train", trained / "text.txt", "--out", tmp_path, *SMALL, "--steps", 1, "--sample-length", 0)
    (tmp_path / "history.csv").write_text("precious")
    refused(run(*command), tmp_path, "history.csv", "--force")
    assert (tmp_path / "history.csv").read_text() == "precious"
    assert run(*command, "--force").exit_code == 0
    assert (tmp_path / "history.csv").read_text() != "precious"


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_training_with_a_saved_model(trained, tmp_path, number, code):
    process = start("train", trained / "text.txt", "--out", tmp_path, *SMALL, "--steps", 10**6)
    try:
        for line in process.stdout:
            if "bits/char" in line:
                break
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, (output, errors)
    assert errors == "" and "the model is saved" in output and "Held back" in output
    found = load(tmp_path / "model.safetensors", "numpy", None)
    assert 0 < found.config["training"]["steps"] < 10**6
    assert not list(tmp_path.glob(".*"))


def test_a_second_signal_interrupts_at_once():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with Stop() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.reason == "Ctrl-C"
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


# ---- progress ------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize(("term", "bar"), [("xterm", True), ("dumb", False)])
def test_a_terminal_shows_a_bar_and_a_dumb_one_lines(trained, tmp_path, term, bar):
    import pty

    ours, theirs = pty.openpty()
    environment = {**ENVIRONMENT, "TERM": term}
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        environment.pop(name, None)
    command = ("train", trained / "text.txt", "--out", tmp_path, *SMALL, "--steps", 20, "--sample-length", 0)
    process = start(*command, stdout=theirs, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # Linux says so when the other side has closed
        pass
    os.close(ours)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, (shown, errors)
    assert (b"\x1b[" in shown) == bar
    assert ("━".encode() in shown) == bar
    assert b"20/20" in shown and b"bits/char" in shown and b"chars/s" in shown


def test_lines_come_now_and_then(capsys):
    display = Lines()
    for step in range(1, 4):
        display.show(Report(step, 1000, step / 1000, 2.0, 1234.5, 75.0))
    display.close()
    display.close()
    assert capsys.readouterr().out == (
        "1/1,000: loss 2.000, 2.89 bits/char, 1,234 chars/s, 1:15 left\n"
        "3/1,000: loss 2.000, 2.89 bits/char, 1,234 chars/s, 1:15 left\n"
    )


def test_the_time_left_in_words():
    def words(seconds):
        return left(Report(1, 2, 0.5, 1.0, 1.0, seconds))

    assert [words(s) for s in (0.2, 61, 3661, math.inf)] == ["0:00 left", "1:01 left", "1:01:01 left", "-:-- left"]


# ---- sample --------------------------------------------------------------------------------


def test_a_sample_is_reproducible(model):
    def text(*options):
        result = run("sample", model, "--length", 80, *options)
        assert result.exit_code == 0, result.output
        return result.stdout

    first = text("--prompt", "the ", "--seed", 3)
    assert first == text("--prompt", "the ", "--seed", 3)
    assert first != text("--prompt", "the ", "--seed", 4)
    assert first.startswith("the ") and len(first) == 4 + 80 + 1
    assert text("--temperature", 0, "--seed", 3) == text("--temperature", 0, "--seed", 4)


def test_a_sample_step_by_step_is_what_the_whole_sequence_predicts(model):
    found, length = load(model, "numpy", None), 60
    text = run("sample", model, "--prompt", "quick ", "--length", length, "--temperature", 0).stdout[:-1]
    ids = found.vocabulary.encode(text)
    logits, _ = found.model(found.params, ids[:-1, None])
    assert logits[-length:, 0].argmax(axis=-1).tolist() == ids[-length:].tolist()


def test_choices_follow_the_softmax():
    rng, logits = np.random.default_rng(0), np.log(np.asarray([0.5, 0.25, 0.125, 0.125], dtype="float32"))
    for temperature in (1.0, 2.0):
        expected = np.exp(logits / temperature)
        counts = np.bincount([choose(logits, temperature, rng) for _ in range(4000)], minlength=4)
        assert counts / 4000 == pytest.approx(expected / expected.sum(), abs=0.03)
    assert choose(logits, 0, rng) == choose(logits, 1e-300, rng) == 0
    with pytest.raises(ValueError, match="not finite"):
        choose(np.asarray([0.0, np.nan]), 1.0, rng)


def test_an_empty_prompt_is_the_beginning_of_a_line():
    assert known_prompt(pr_vocabulary("a\nb"), "") == "\n"
    assert known_prompt(pr_vocabulary("ab"), "") == "a"


def pr_vocabulary(text):
    from polyrnn.data import Vocabulary

    return Vocabulary.of(text)


@posix
def test_a_closed_pipe_ends_a_sample_quietly(model):
    process = start("sample", model, "--length", 10**7)
    try:
        assert len(process.stdout.read(10)) == 10
        process.stdout.close()
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.stderr.close()


# ---- evaluate ------------------------------------------------------------------------------


def test_evaluation_measures_bits_per_character(trained, model, tmp_path):
    found, text = load(model, "numpy", None), TEXT[:500]
    (tmp_path / "some.txt").write_text(text, encoding="utf-8")
    result = run("evaluate", model, tmp_path / "some.txt")
    assert result.exit_code == 0, result.output
    ids = found.vocabulary.encode(text)[:, None]
    loss = pr.softmax_cross_entropy(found.model(found.params, ids[:-1])[0], ids[1:]).value
    assert result.stdout.startswith(f"{loss / math.log(2):.4f} bits per character\n500 characters")


def test_evaluation_and_training_measure_alike(trained, model, tmp_path):
    (tmp_path / "held.txt").write_text(TEXT[-round(0.1 * len(TEXT)) :], encoding="utf-8")
    bits = run("evaluate", model, tmp_path / "held.txt").stdout.split()[0]
    assert f"{float(bits):.3f} bits per character" in (trained / "output.txt").read_text(encoding="utf-8")


def test_unknown_characters_are_counted_and_can_be_left_out(model, tmp_path):
    strange = tmp_path / "strange.txt"
    strange.write_text("the quick Ω fox Ω ж\n", encoding="utf-8")
    refused(run("evaluate", model, strange), strange, "3 of 20", "'Ω' (U+03A9) 2 times", "'ж'", "--unknown skip")
    result = run("evaluate", model, strange, "--unknown", "skip")
    assert result.exit_code == 0 and "17 characters, 3 unknown ones left out" in result.stdout
    strange.write_text("ΩΩt", encoding="utf-8")
    refused(run("evaluate", model, strange, "--unknown", "skip"), "1 characters that the model knows", "at least 2")


# ---- info, help, start ---------------------------------------------------------------------


def test_info_tells_what_runs_here():
    facts = json.loads(run("info", "--json").stdout)
    assert facts["polyrnn"] == pr.__version__ and facts["backends"]["numpy"]["available"]
    text = " ".join(run("info").stdout.split())
    for name, found in facts["backends"].items():
        assert name in text and (found["version"] or found["reason"]) in text
        assert found["available"] or found["remedy"] in text
    used = {status["name"] for status in facts["kernel_statuses"] if status["used"]}
    assert set(facts["kernels"].values()) <= used and "numpy in-place" in used and facts["threads"] >= 1
    for status in facts["kernel_statuses"]:
        assert status["name"] in text and " ".join(status["why"].split()) in text
        assert status["used"] or status["remedy"] in text
    assert facts["kernels"] == pr.kernels_in_use()
    assert facts["kernel_statuses"] == [status._asdict() for status in kernels.kernel_statuses()]
    assert f"threads {kernels._threads.threads()}, of" in text


def test_info_tells_of_kernels_that_are_switched_off_and_of_threads(monkeypatch):
    monkeypatch.setenv("POLYRNN_KERNELS", "off")
    monkeypatch.setenv("POLYRNN_NUM_THREADS", "3")
    text = " ".join(run("info").stdout.split())
    assert "numpy in-place not used: kernels are switched off; to mend it: POLYRNN_KERNELS=on" in text
    assert "the reference runs everywhere" in text and "POLYRNN_NUM_THREADS 3" in text
    assert json.loads(run("info", "--json").stdout)["kernels"] == {}


def test_info_does_not_import_numba():
    code = (
        "import sys; from polyrnn.cli import main; sys.argv[1:] = ['info']\n"
        "try: main()\nfinally: assert not {'numba', 'llvmlite'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    assert done.returncode == 0 and "numba" in done.stdout, done.stderr


def test_versions_and_help():
    assert run("--version").stdout == f"polyrnn {pr.__version__}\n"
    text = run("--help").stdout
    assert all(command in text for command in ("train", "sample", "evaluate", "check", "info"))
    assert run().exit_code in (0, 2)
    for command in ("train", "sample", "evaluate", "check", "info"):
        assert run(command, "--help").exit_code == 0


def test_help_imports_nothing_slow():
    code = (
        "import sys, polyrnn.cli._app; print([m for m in ('rich', 'matplotlib', 'jax', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_its_packages_it_says_what_to_install(missing):
    code = f"import sys; sys.modules[{missing!r}] = None; from polyrnn.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    assert 'pip install "polyrnn[cli]"' in done.stderr and done.stderr.count("\n") == 1


def test_the_module_runs_and_shows_no_traceback():
    process = start("sample", "no-such-file")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and output == ""
    assert errors.startswith("Error: no-such-file: no such file") and errors.count("\n") == 1


def test_a_traceback_on_demand():
    result = run("--traceback", "sample", "no-such-file")
    assert isinstance(result.exception, FileNotFoundError)


# ---- bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--prompt", "été"), ("--prompt 'été'", "'é' (U+00E9)", "position 0")),
        (("--backend", "tensorflow"), ("--backend 'tensorflow'", "no such backend", "numpy")),
        (("--device", "cuda:7"), ("device='cuda:7'", "numpy")),
        (("--learning-rate", 0), ("--learning-rate 0", "> 0")),
        (("--learning-rate", "nan"), ("--learning-rate nan", "> 0")),
        (("--time", -1), ("--time -1", "> 0")),
        (("--dropout", 1), ("--dropout 1", "< 1")),
        (("--held-back", 1.5), ("--held-back 1.5", "< 1")),
        (("--held-back", 0.0001), ("--held-back 0.0001", "at least 2")),
        (("--clip-norm", -1), ("--clip-norm -1", ">= 0")),
        (("--momentum", 0.9), ("--momentum 0.9", "adam", "sgd")),
        (("--warmup-steps", 9, "--steps", 8), ("--warmup-steps 9", "8 steps")),
        (("--temperature", -1), ("--temperature -1", ">= 0")),
        (("--seed", -1), ("--seed -1", ">= 0")),
        (("--batch-size", 1000), ("2,376 characters", "--batch-size 1000", "16,001")),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else str(value),
)
def test_bad_options_of_training(trained, tmp_path, options, words):
    refused(run("train", trained / "text.txt", "--out", tmp_path / "out", *SMALL, *options), *words)
    assert not (tmp_path / "out").exists()


def test_a_model_beyond_the_memory_is_refused_before_it_is_drawn(trained, model, tmp_path, monkeypatch):
    command = ("train", trained / "text.txt", "--out", tmp_path / "out", *SMALL, "--steps", 1, "--sample-length", 0)
    needed = 4 * sum(array.nbytes for array in pr.load(model).params.values())
    with monkeypatch.context() as patch:
        patch.setattr(pr.Sequential, "init", lambda *arguments: pytest.fail("parameters were drawn"))
        patch.setattr("polyrnn.cli.train.physical_memory", lambda: needed - 1)
        refused(run(*command), "--hidden-size 24 with --embedding-size 6", "float32 need 0.0 GiB", "memory, 0.0 GiB")
        patch.setattr("polyrnn.cli.train.physical_memory", lambda: 8 * 2**30)
        words = ("--hidden-size 4000000", "--embedding-size 6", "953,677.9 GiB", "memory, 8.0 GiB")
        refused(run(*command, "--hidden-size", 4_000_000), *words)
        words = ("--embedding-size 10000000000", "float64", "GiB")
        refused(run(*command, "--embedding-size", 10**10, "--dtype", "float64"), *words)
    assert not (tmp_path / "out").exists()
    for there in (needed, None):  # None: the system does not tell
        monkeypatch.setattr("polyrnn.cli.train.physical_memory", lambda there=there: there)
        assert run(*command, "--force").exit_code == 0


def test_the_memory_of_this_machine(monkeypatch):
    if hasattr(os, "sysconf"):
        assert physical_memory() > 2**27
    monkeypatch.setattr(os, "sysconf", lambda name: -1 if name == "SC_PHYS_PAGES" else 4096, raising=False)
    assert physical_memory() is None
    monkeypatch.delattr(os, "sysconf")
    assert physical_memory() is None


@pytest.mark.parametrize(
    "option", [("--batch-size", "many"), ("--steps", 0), ("--cell", "transformer"), ("--no-such",)]
)
def test_options_that_cannot_be_read(option):
    result = run("train", *option)
    assert result.exit_code == 2 and option[0] in result.stderr and "Traceback" not in result.output


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ("is empty",)),
        (b"short", ("5 characters", "65")),
        (b"\xff\xfe\x00bad", ("UTF-8", "position 0")),
        (None, ("No such file",)),
    ],
    ids=["empty", "short", "binary", "absent"],
)
def test_bad_texts(tmp_path, content, words):
    text = tmp_path / "text.txt"
    if content is not None:
        text.write_bytes(content)
    refused(run("train", text, "--out", tmp_path / "out", *SMALL, "--held-back", 0), text, *words)
    assert not (tmp_path / "out").exists()


def test_a_folder_is_no_text(tmp_path):
    refused(run("train", tmp_path, "--out", tmp_path / "out"), tmp_path)


def test_an_output_folder_that_cannot_be_written(trained, tmp_path):
    (tmp_path / "file").write_text("")
    refused(run("train", trained / "text.txt", "--out", tmp_path / "file" / "out", *SMALL), tmp_path / "file" / "out")
    refused(run("train", trained / "text.txt", "--out", tmp_path / "file", *SMALL), tmp_path / "file")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_folder_without_permission(trained, tmp_path):
    tmp_path.chmod(0o500)
    try:
        refused(run("train", trained / "text.txt", "--out", tmp_path, *SMALL), tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_a_backend_that_cannot_run_says_why(trained, tmp_path):
    absent = [name for name, found in pr.available_backends().items() if not found.available]
    if not absent:
        pytest.skip("every backend can run here")
    result = run("train", trained / "text.txt", "--out", tmp_path / "out", *SMALL, "--backend", absent[0])
    refused(result, absent[0], "To mend it")


def test_a_training_that_diverges_says_so(trained, tmp_path):
    wild = ("--optimizer", "sgd", "--learning-rate", 1e38, "--clip-norm", 0, "--warmup-steps", 0, "--steps", 9)
    result = run("train", trained / "text.txt", "--out", tmp_path / "out", *SMALL, *wild)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: the loss of step") and "--learning-rate" in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("command", ["sample", "evaluate"])
@pytest.mark.parametrize("kind", ["absent", "folder", "text", "truncated", "foreign", "another", "unfit"])
def test_bad_model_files(trained, model, tmp_path, command, kind):
    path, expected = tmp_path / "bad.safetensors", {"absent": "no such file", "foreign": "format"}.get(kind, "")
    content = model.read_bytes()
    params, config = pr.load(model)
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text(TEXT)
    elif kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "foreign":
        from safetensors.numpy import save_file

        save_file(params, path)
    elif kind == "another":  # a file of polyrnn's, but no language model
        pr.save(path, params, {"cell": "lstm"})
    elif kind == "unfit":
        pr.save(path, params, {**config, "hidden_size": 25})
    options = (trained / "text.txt",) if command == "evaluate" else ()
    refused(run(command, path, *options), path, expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--prompt", "naïve"), ("'ï' (U+00EF)", "position 2", "knows 28 characters")),
        (("--temperature", -0.5), ("--temperature -0.5",)),
        (("--temperature", "inf"), ("--temperature inf",)),
        (("--seed", -2), ("--seed -2",)),
        (("--backend", "abacus"), ("--backend 'abacus'",)),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_bad_options_of_a_sample(model, options, words):
    refused(run("sample", model, *options), *words)


@pytest.mark.parametrize("content", ["", "t"])
def test_texts_with_nothing_to_predict(model, tmp_path, content):
    (tmp_path / "text.txt").write_text(content)
    refused(run("evaluate", model, tmp_path / "text.txt"), tmp_path / "text.txt")
