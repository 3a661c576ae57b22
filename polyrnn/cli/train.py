"""`polyrnn train`: a character-level language model of a text."""

import itertools
import math
import os
import shlex
import tempfile
import threading
import time
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import typer

from ..data import Vocabulary
from ..kernels import use_kernels
from ._threads import COMPILED, Threads

FILES = ("model.safetensors", "history.csv", "curve.png")
STEPS, SECONDS = 1600, 45.0  # by default: `polyrnn train` ends within a minute, on a slow machine too
LEARNING_RATES = {"adam": 0.03, "adamw": 0.03, "rmsprop": 0.003, "sgd": 1.0}
MARGIN = 10
PATIENCE = 2.0  # seconds of preparation after which the reason is told
ON_THE_WAY = 100_000  # characters of the held-back text that are measured on during training


class Cell(StrEnum):
    """The recurrent layers."""

    rnn = "rnn"
    lstm = "lstm"
    gru = "gru"


class Optimizer(StrEnum):
    """The optimisers."""

    adam = "adam"
    adamw = "adamw"
    rmsprop = "rmsprop"
    sgd = "sgd"


class Schedule(StrEnum):
    """The course of the learning rate."""

    cosine = "cosine"
    exponential = "exponential"
    constant = "constant"


class DType(StrEnum):
    """The precisions."""

    float32 = "float32"
    float64 = "float64"


def train(
    text: Annotated[
        Path | None,
        typer.Argument(
            help="A text file in UTF-8; without one, the Python language reference that comes with Python.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder for the files that are written.", show_default="polyrnn-out, or polyrnn-out-2, ..."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the files of an earlier training in it.")] = False,
    cell: Annotated[Cell, typer.Option(help="The recurrent layer.")] = Cell.lstm,
    hidden_size: Annotated[int, typer.Option(min=1, help="Units of the recurrent layer.")] = 128,
    embedding_size: Annotated[int, typer.Option(min=1, help="Length of a character's vector.")] = 64,
    dropout: Annotated[float, typer.Option(help="Probability of a zero, before and after the layer.")] = 0.0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Updates to make.", show_default=f"{STEPS}, or as many as --time allows")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option("--time", help="Seconds to train at most.", show_default=f"{SECONDS:g}, or no limit with --steps"),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Streams of text side by side.")] = 32,
    sequence_length: Annotated[
        int, typer.Option(min=1, help="Characters of each stream in a step: how far gradients reach back.")
    ] = 64,
    optimizer: Annotated[Optimizer, typer.Option(help="How gradients become updates.")] = Optimizer.adam,
    learning_rate: Annotated[
        float | None, typer.Option(help="At its peak.", show_default="adam, adamw 0.03; rmsprop 0.003; sgd 1")
    ] = None,
    schedule: Annotated[
        Schedule, typer.Option(help="The learning rate's course, down to zero, to a hundredth, or constant.")
    ] = Schedule.cosine,
    warmup_steps: Annotated[
        int | None,
        typer.Option(min=0, help="Steps from zero to the peak (cosine).", show_default="50, at most a tenth of all"),
    ] = None,
    momentum: Annotated[
        float | None, typer.Option(help="Of sgd and rmsprop.", show_default="sgd 0.9, rmsprop 0")
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="A penalty on large weights.")] = 0.0,
    clip_norm: Annotated[float, typer.Option(help="Largest global norm of the gradients; 0 for no limit.")] = 1.0,
    held_back: Annotated[float, typer.Option(help="Share of the text, its end, that is only measured on.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the weights, of dropout and of the sample.")] = 0,
    backend: Annotated[
        str | None,
        typer.Option(help="numpy, cupy, jax, torch or array_api_strict.", show_default="POLYRNN_BACKEND, else numpy"),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Such as cuda:1.", show_default="the backend's own")] = None,
    dtype: Annotated[DType, typer.Option(help="Precision.")] = DType.float32,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of kernels and of NumPy's products, at most.",
            show_default="for kernels all, for products what is fastest, measured",
        ),
    ] = None,
    prompt: Annotated[
        str, typer.Option(help="What the sample begins with.", show_default="the beginning of a line")
    ] = "",
    sample_length: Annotated[int, typer.Option(min=0, help="Characters of the sample; 0 for none.")] = 400,
    temperature: Annotated[float, typer.Option(help="Of the sample.")] = 0.8,
) -> None:
    """Train a character-level language model.

    It ends with the bits per character on the part of the text that was held back, a sample of generated text, and
    the files written: the model, its history and the learning curve. Ctrl-C stops early with all of that, and with
    exit code 130.
    """
    with use_kernels(threads=threads):
        run(SimpleNamespace(**locals()))


@np.errstate(all="ignore")  # what overflows shows in the loss, which is looked at
def run(o: SimpleNamespace) -> None:
    """Everything from the text to the files; `o` holds the options by their names above."""
    from .. import checkpoint
    from ..model import describe as describe_module
    from ._curve import draw
    from ._history import write
    from ._loop import Stop, learn
    from ._model import LanguageModel, kernel_of, known_prompt
    from ._progress import open_display
    from ._words import print_row
    from .sample import generate

    start = time.perf_counter()
    check_options(o)
    name, vocabulary, learned, held = read_text(o)
    begin = known_prompt(vocabulary, o.prompt)
    found = new_model(o, vocabulary)
    o.out = o.out or free_folder(o.force)
    prepare_folder(o.out, o.force)
    paths = [o.out / file for file in FILES]

    shares = f"the last {len(held):,} held back" if len(held) else "none held back"
    words = f"{name}: {len(learned) + len(held):,} characters, {len(vocabulary)} different ones, {shares}"
    for what, said in (("Text", words), ("Model", describe(found)), ("Training", plan(o))):
        print_row(what, said, MARGIN)
    kernel = kernel_of(found, o.sequence_length, o.batch_size)
    if kernel is not None:
        print_row("Kernels", describe_kernel(kernel.name), MARGIN)
        prepare(o, found)
    display, threads = open_display(), Threads(found.backend, o.hidden_size, o.batch_size, o.threads, kernel)
    with Stop() as stop:
        try:
            result = learn(o, found, learned, held[:ON_THE_WAY], display, stop, threads)
        finally:
            display.close()
        config = {"model": describe_module(found.model), **found.config, "training": settings(o, name, result)}
        checkpoint.save(paths[0], result.params, config)
    found = LanguageModel(found.model, result.params, vocabulary, found.config, found.backend)
    if stop.reason:
        print_row("Stopped", f"by {stop.reason}; the model is saved", MARGIN)
    speed = result.characters / result.seconds
    words = f"{result.rows[-1].step:,} steps, {result.characters:,} characters, {speed:,.0f} characters/s"
    print_row("Trained", words, MARGIN)
    if len(held):
        bits = measure(found, held, threads)
        result.rows[-1] = result.rows[-1]._replace(held_back=bits)
        print_row("Held back", f"{bits:.3f} bits per character", MARGIN)
    per_step = o.batch_size * o.sequence_length
    write(paths[1], result.rows, per_step)
    try:
        draw(paths[2], result.rows, per_step, f"{o.cell.upper()} of {o.hidden_size} on {name}")
    except ImportError as error:
        paths.pop()
        print_row("No curve", f'{error.name} is missing; pip install "polyrnn[cli]"', MARGIN)
    if o.sample_length:
        print(f"\nA sample at temperature {o.temperature:g}:\n")
        characters = generate(found.model, found.params, vocabulary, begin, o.sample_length, o.temperature, o.seed)
        sample = o.prompt + "".join(characters)
        print("\n".join(f"    {line}".rstrip() for line in sample.split("\n")))
    print(f"\nWritten in {time.perf_counter() - start:.0f} s:")
    for path in paths:
        print(f"    {path}")
    print(f"More text: polyrnn sample {shlex.quote(str(paths[0]))}", flush=True)
    if stop.signal:
        raise typer.Exit(128 + stop.signal)


def check_options(o: SimpleNamespace) -> None:
    """ValueError for numbers out of range, before anything is done; typer has checked the others."""
    from .sample import check_sampling

    if o.steps is None and o.seconds is None:
        o.steps, o.seconds = STEPS, SECONDS
    if o.learning_rate is None:
        o.learning_rate = LEARNING_RATES[o.optimizer]
    if o.momentum is not None and o.optimizer not in ("sgd", "rmsprop"):
        raise ValueError(f"--momentum {o.momentum}: {o.optimizer} has none; expected it with sgd or rmsprop only")
    if o.momentum is None:
        o.momentum = 0.9 if o.optimizer == "sgd" else 0.0
    positive = {"--learning-rate": o.learning_rate, "--time": 1.0 if o.seconds is None else o.seconds}
    for option, value in positive.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{option} {value}: expected a finite number > 0")
    for option in ("momentum", "weight_decay", "clip_norm"):
        if not 0 <= (value := getattr(o, option)) < math.inf:
            raise ValueError(f"--{option.replace('_', '-')} {value}: expected a finite number >= 0")
    for option in ("dropout", "held_back", "momentum"):
        if not 0 <= (value := getattr(o, option)) < 1:
            raise ValueError(f"--{option.replace('_', '-')} {value}: expected a number, 0 <= number < 1")
    if o.steps and o.warmup_steps and o.warmup_steps > o.steps:
        raise ValueError(f"--warmup-steps {o.warmup_steps}: expected at most the {o.steps} steps of training")
    check_sampling(o.temperature, o.seed)


def read_text(o: SimpleNamespace) -> tuple[str, Vocabulary, np.ndarray, np.ndarray]:
    """The text's name, its characters, and the ids to learn from and to hold back."""
    from ..data import default_text, load_text, split

    name = "the Python language reference" if o.text is None else str(o.text)
    text = default_text() if o.text is None else load_text(o.text)
    learned, held = split(text, o.held_back)
    needed = o.batch_size * o.sequence_length + 1
    if len(learned) < needed:
        raise ValueError(
            f"{name}: {len(learned):,} characters to learn from are too few for one step of "
            f"--batch-size {o.batch_size} x --sequence-length {o.sequence_length}, which needs {needed:,}; use a "
            "longer text or smaller numbers"
        )
    if o.held_back and len(held) < 2:
        raise ValueError(
            f"--held-back {o.held_back}: holds {len(held)} of {len(text):,} characters back; expected at least 2, or "
            "--held-back 0"
        )
    vocabulary = Vocabulary.of(text)
    return name, vocabulary, vocabulary.encode(learned), vocabulary.encode(held)


def new_model(o: SimpleNamespace, vocabulary: Vocabulary) -> Any:
    """A model with fresh parameters."""
    from .. import __version__
    from ._model import LanguageModel, build, open_backend

    config = {
        "kind": "character-level language model",
        "polyrnn": __version__,
        "cell": o.cell.value,
        "hidden_size": o.hidden_size,
        "embedding_size": o.embedding_size,
        "dropout": o.dropout,
        "vocabulary": vocabulary.characters,
    }
    chosen = open_backend(o.backend, o.device)
    model = build(config)
    check_memory(o, model.shapes())
    return LanguageModel(model, model.init(o.seed, chosen, o.dtype.value), vocabulary, config, chosen)


def check_memory(o: SimpleNamespace, shapes: dict[str, tuple[int, ...]]) -> None:
    """ValueError for a model that cannot be trained in this machine's memory, before minutes are spent on drawing it.

    The parameters, their gradients and an optimiser's two moments are what any training needs.
    """
    there = physical_memory()
    needed = 4 * np.dtype(o.dtype.value).itemsize * sum(math.prod(shape) for shape in shapes.values())
    if there is not None and needed > there:
        raise ValueError(
            f"--hidden-size {o.hidden_size} with --embedding-size {o.embedding_size}: parameters, gradients and "
            f"moments in {o.dtype} need {in_gib(needed)}; expected at most this machine's memory, {in_gib(there)}"
        )


def physical_memory() -> int | None:
    """The bytes of memory of this machine; None where the system does not tell."""
    try:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows; a name or a number that it does not know
        return None
    return found if found > 0 else None


def in_gib(size: int) -> str:
    """A number of bytes in words."""
    return f"{size / 2**30:,.1f} GiB"


def free_folder(force: bool) -> Path:
    """Where to write by default: `polyrnn-out`, or the first of `polyrnn-out-2` ... that holds no training yet."""
    names = itertools.chain(["polyrnn-out"], (f"polyrnn-out-{k}" for k in itertools.count(2)))
    return next(Path(name) for name in names if force or not any((Path(name) / file).exists() for file in FILES))


def prepare_folder(folder: Path, force: bool) -> None:
    """Make the folder; OSError if it holds a training already, or no file can be made in it."""
    existing = [file for file in FILES if (folder / file).exists()]
    if existing and not force:
        raise FileExistsError(
            f"{folder} already holds {', '.join(existing)}; --force replaces, --out FOLDER writes elsewhere"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise type(error)(f"--out {folder}: no file can be written there: {error.strerror}") from error


def measure(found: Any, ids: np.ndarray, threads: Any) -> float:
    """The bits per character of ids."""
    from ..losses import softmax_cross_entropy
    from ..training import evaluate
    from ._model import reading_windows

    windows = threads.tune(reading_windows(ids))
    return evaluate(found.model, softmax_cross_entropy, found.params, windows) / math.log(2)


def describe(found: Any) -> str:
    """The model in words."""
    config = found.config
    count = sum(math.prod(shape) for shape in found.model.shapes().values())
    dropout = f", dropout {config['dropout']:g}" if config["dropout"] else ""
    dtype = str(next(iter(found.params.values())).dtype).rpartition(".")[2]
    where = found.backend.name + (f" ({found.backend.device})" if found.backend.device is not None else "")
    return (
        f"{config['cell'].upper()} of {config['hidden_size']}, embedding of {config['embedding_size']}{dropout}: "
        f"{count:,} parameters, {dtype} on {where}"
    )


def describe_kernel(name: str) -> str:
    """A kernel in words, with its threads if it has its own."""
    from ..kernels._threads import threads

    count = threads()
    return f"{name}, {count} thread{'s' * (count > 1)}" if name == COMPILED else name


def prepare(o: SimpleNamespace, found: Any) -> None:
    """Have the kernels load and compile what they need, since the time of training is for steps.

    A few characters of each stream go through the model and back, with results that nobody looks at. Where that takes
    long, something is being compiled: these few are no work.
    """
    from ..losses import softmax_cross_entropy
    from ..training import value_and_grad
    from ._words import print_row

    # Else Numba has colorama, where that is installed, send an escape sequence to any terminal at the end.
    os.environ.setdefault("NUMBA_DISABLE_ERROR_MESSAGE_HIGHLIGHTING", "1")
    said = threading.Event()

    def say() -> None:
        said.set()
        print_row("", "compiling them, once on this machine", MARGIN)

    timer, start = threading.Timer(PATIENCE, say), time.perf_counter()
    timer.daemon = True
    timer.start()
    try:
        ids = found.backend.asarray(np.zeros((min(o.sequence_length, 4), o.batch_size), np.int64))
        value_and_grad(found.model, softmax_cross_entropy)(found.params, ids, ids)
    finally:
        timer.cancel()
        timer.join()
    if said.is_set():
        print_row("", f"compiled in {time.perf_counter() - start:.0f} s; kept for the next time", MARGIN)


def plan(o: SimpleNamespace) -> str:
    """What is going to be done, in words."""
    amount = f"{o.steps:,} steps" if o.steps else f"{o.seconds:g} seconds of steps"
    limit = f", at most {o.seconds:g} seconds" if o.seconds and o.steps else ""
    course = "constant" if o.schedule == "constant" else f"with {o.schedule} decay"
    each = f"{o.batch_size} x {o.sequence_length} characters"
    return f"{amount} of {each}{limit}, {o.optimizer} at {o.learning_rate:g}, {course}"


def settings(o: SimpleNamespace, name: str, result: Any) -> dict[str, Any]:
    """What the model was trained with, for its file."""
    left_out = ("text", "out", "force", "prompt", "sample_length", "temperature", "cell", "hidden_size")
    known = {key: value for key, value in vars(o).items() if key not in (*left_out, "embedding_size", "dropout")}
    return {**known, "text": name, "steps": result.rows[-1].step}
