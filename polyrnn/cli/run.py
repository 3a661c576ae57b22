"""`polyrnn run`: a model's outputs for an array in a file."""

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ._words import print_row

MARGIN = 10


def run(
    model: Annotated[Path, typer.Argument(help="A file of any format that `convert` reads.", show_default=False)],
    inputs: Annotated[Path, typer.Argument(metavar="INPUT", help="x in a .npy file.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Where y goes, .npy.", show_default=False)],
    lengths: Annotated[Path | None, typer.Option(help="The lengths (N,), .npy.", show_default="all steps")] = None,
    state: Annotated[
        Path | None, typer.Option(help="The initial state, .npz with h, and c of an LSTM.", show_default="zero")
    ] = None,
    state_out: Annotated[
        Path | None, typer.Option(help="Where the final state goes, .npz.", show_default="nowhere")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences that run at once.")] = 256,
    name: Annotated[str | None, typer.Option(help="Which recurrent layer, of several.", show_default="all")] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="As for convert.", show_default="by the extension")
    ] = None,
    nonlinearity: Annotated[
        str | None, typer.Option(help="Of an RNN whose file does not tell: tanh or relu.", show_default="tanh")
    ] = None,
    batch_first: Annotated[
        bool, typer.Option(help="Whether x is (N, T, I), of a layer whose file does not tell.")
    ] = False,
    force: Annotated[bool, typer.Option(help="Overwrite files.")] = False,
    backend: Annotated[
        str | None, typer.Option(help="As for train.", show_default="POLYRNN_BACKEND, else numpy")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Such as cuda:1.", show_default="the backend's own")] = None,
) -> None:
    """Run a model on x (T, N, ...) and write y."""
    from ..checkpoint import write_atomically
    from ..interop import _files as files
    from ..model import Model
    from ._model import open_backend
    from .convert import reading_options

    if out == state_out:
        raise ValueError(f"--out and --state-out are both {out}")
    for path in (out, state_out):
        if path is not None and path.exists() and not force:
            raise FileExistsError(f"{path} exists; --force overwrites it")
    chosen = open_backend(backend, device)
    form = files.format_of(model, from_, "--from", reading=True)
    if form == "onnx" and name is None:
        if nonlinearity or batch_first:
            raise ValueError("--nonlinearity and --batch-first have no meaning here: the graph tells")
        run_graph(model, chosen, read_array(inputs), lengths, state, out, state_out)
        return
    found = files.read(model, form, **reading_options(nonlinearity, batch_first))
    one = files.one_model(found, name, str(model))
    one = Model(one.module, chosen.asarray(one.params))
    x = taken_as(read_array(inputs), next((str(a.dtype) for a in one.params.values()), None))
    start = time.perf_counter()
    with Progress() as progress:
        y, after = one.predict(
            x,
            None if state is None else read_state(state),
            None if lengths is None else read_array(lengths),
            batch_size,
            progress,
        )
    seconds = time.perf_counter() - start
    parts = dict(zip("hc", after if isinstance(after, tuple) else (after,), strict=False))
    if state_out is not None and any(not isinstance(part, np.ndarray) for part in parts.values()):
        raise ValueError(f"--state-out: {type(one.module).__name__} has no state h, or h and c")
    with write_atomically(out) as file:
        np.save(file, y)
    print_row("Written", f"{out}: {y.shape} {y.dtype}, in {seconds:.2f} s on {chosen.name}", MARGIN)
    if state_out is not None:
        with write_atomically(state_out) as file:
            np.savez(file, **parts)
        print_row("", f"{state_out}: {', '.join(f'{key} {part.shape}' for key, part in parts.items())}", MARGIN)


def run_graph(
    path: Path, backend: Any, x: np.ndarray, lengths: Path | None, state: Path | None, out: Path, state_out: Path | None
) -> None:
    """A whole ONNX graph: its first input is x, its first output y, by name those of lengths and of states."""
    from ..checkpoint import write_atomically
    from ..interop import npz, onnx

    graph = onnx.load(path)
    names, outputs = [value.name for value in graph.inputs], [value.name for value in graph.outputs]
    given: dict[str, Any] = {names[0]: taken_as(x, graph.inputs[0].dtype)} if names else {}
    if lengths is not None:
        own = next((n for n in names if n.rpartition(".")[2] in ("lengths", "sequence_lens", "seq_lens")), "lengths")
        given[own] = read_array(lengths).astype("int32")
    if state is not None:
        given |= npz.read(state)
    if given.keys() != set(names):
        raise ValueError(
            f"{path}: has the inputs {', '.join(names)}, and given were {', '.join(given)}; a state is an archive with "
            "the names of its inputs"
        )
    start = time.perf_counter()
    found = backend.to_numpy(graph.run(backend.asarray(given)))
    seconds = time.perf_counter() - start
    with write_atomically(out) as file:
        np.save(file, found[outputs[0]])
    y = found[outputs[0]]
    print_row("Written", f"{out}: {outputs[0]} {y.shape} {y.dtype}, in {seconds:.2f} s on {backend.name}", MARGIN)
    if state_out is not None:
        rest = {name: found[name] for name in outputs[1:]}
        with write_atomically(state_out) as file:
            np.savez(file, **rest)
        print_row("", f"{state_out}: {', '.join(f'{name} {part.shape}' for name, part in rest.items())}", MARGIN)


class Progress:
    """A bar on a terminal, and nothing elsewhere."""

    def __enter__(self) -> "Progress":
        from rich.console import Console
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        self.bar = Bar(console=console, transient=True, disable=not console.is_terminal)
        self.task = self.bar.add_task("sequences", total=None)
        self.bar.start()
        return self

    def __call__(self, done: int, total: int) -> None:
        """So many of all."""
        self.bar.update(self.task, completed=done, total=total)

    def __exit__(self, *error: object) -> None:
        self.bar.stop()


def read_array(path: Path) -> np.ndarray:
    """An array of numbers from a .npy file, mapped; ValueError if it is none."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not an array that numpy.save wrote: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        raise ValueError(f"{path}: expected an array of numbers, as numpy.save writes it")
    return np.asarray(array)


def taken_as(x: np.ndarray, dtype: str | None) -> np.ndarray:
    """Floating input in the model's dtype, which is told: numpy.save has float64 where nobody asked for another."""
    if dtype is None or x.dtype.kind != "f" or x.dtype.name == dtype or not dtype.startswith("float"):
        return x
    print_row("Input", f"{x.dtype}, taken as {dtype}", MARGIN)
    return x.astype(dtype)


def read_state(path: Path) -> Any:
    """H, or (h, c), from an archive."""
    from ..interop import npz

    arrays = npz.read(path)
    if not isinstance(arrays, dict) or set(arrays) not in ({"h"}, {"h", "c"}):
        raise ValueError(f"{path}: expected an archive with h, or with h and c")
    return (arrays["h"], arrays["c"]) if "c" in arrays else arrays["h"]
