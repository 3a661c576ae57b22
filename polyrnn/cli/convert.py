"""`polyrnn convert`: a model from one library's file into another's."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ._words import print_row

MARGIN = 10
CLOSE = 1e-3  # more than rounding in any dtype that is converted but the halves


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="The file to read.", show_default=False)],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.", show_default=False)],
    from_: Annotated[
        str | None,
        typer.Option("--from", help="polyrnn, torch, keras, onnx or npz.", show_default="by the extension"),
    ] = None,
    to: Annotated[str | None, typer.Option(help="The same, of OUT.", show_default="by the extension")] = None,
    name: Annotated[
        str | None, typer.Option(help="Which recurrent layer, of several.", show_default="all, or the only one")
    ] = None,
    nonlinearity: Annotated[
        str | None, typer.Option(help="Of an RNN whose file does not tell: tanh or relu.", show_default="tanh")
    ] = None,
    batch_first: Annotated[
        bool, typer.Option(help="Whether x is (N, T, I), of a layer whose file does not tell.")
    ] = False,
    force: Annotated[bool, typer.Option(help="Overwrite OUT.")] = False,
) -> None:
    """Convert a trained recurrent model: PyTorch (safetensors), Keras 3, ONNX, npz, polyrnn's own."""
    from ..interop import _files as files

    into = files.format_of(target, to, "--to", reading=False)
    if target.exists() and not force:
        raise FileExistsError(f"{target} exists; --force overwrites it")
    options = reading_options(nonlinearity, batch_first)
    form = files.format_of(source, from_, "--from", reading=True)
    found = files.read(source, form, **options)
    show(found, form)
    if rest := files.left_out(source, form, found):
        print_row("Left out", ", ".join(rest), MARGIN)
    model = files.one_model(found, name, str(source))
    files.write(target, into, model)
    print_row("Written", f"{target}, {into}, {target.stat().st_size:,} bytes", MARGIN)
    print_row("Compared", compare(model, target, into), MARGIN)


def reading_options(nonlinearity: str | None, batch_first: bool) -> dict[str, Any]:
    """Of the options that a file may need, those that were given."""
    return ({"nonlinearity": nonlinearity} if nonlinearity else {}) | ({"batch_first": True} if batch_first else {})


def show(found: Any, form: str) -> None:
    """A line for each recurrent layer that was found."""
    from ..interop import _files as files

    named = files.layers(found)
    print_row("Found", f"{form}, {len(named)} recurrent layer{'s' * (len(named) != 1)}", MARGIN)
    for name, (layer, params) in named.items():
        print_row(f"  {name}" if name else "", in_words(layer, params, files.FORMATS[form].order), MARGIN)


def in_words(layer: Any, params: dict, orders: dict[str, str]) -> str:
    """A recurrent layer in a line: cell, sizes, directions, the order of its gates in the file."""
    kind = type(layer).__name__
    parts = [f"{kind} of {layer.hidden_size}, input {layer.input_size}"]
    if layer.num_layers > 1:
        parts.append(f"{layer.num_layers} layers")
    parts.append("both directions" if layer.bidirectional else "one direction")
    if order := orders.get(kind.lower()):
        parts.append(f"gates {order}")
    count = sum(int(np.prod(array.shape)) for array in params.values())
    return ", ".join((*parts, f"{count:,} parameters, {next(iter(params.values())).dtype}"))


def compare(model: Any, target: Path, into: str) -> str:
    """The largest difference between the model and the file that was written, on random input; ValueError if large."""
    from ..interop import _files as files

    if into == "onnx":
        return as_onnx(model, target)
    named = files.layers(model)
    if not named:
        return "there is no recurrent layer to run"
    back = files.again(target, into, named)
    worst = max(difference(*pair) for pair in zip(named.values(), back.values(), strict=True))
    return f"read back, {close(worst, target)} in the outputs of {len(back)} recurrent layer{'s' * (len(back) != 1)}"


def close(difference: float, target: Path) -> str:
    """In words; ValueError if it is more than rounding."""
    if not difference < CLOSE:
        raise ValueError(f"{target}: was written, but what it computes differs by {difference:.1e}; do not use it")
    return f"a difference of {difference:.1e}"


def difference(ours: Any, theirs: Any) -> float:
    """The largest difference of two layers' outputs on random input, as far as they have the same sizes."""
    (layer, params), (other, read) = ours, theirs
    rng = np.random.default_rng(0)
    dtype = next(iter(params.values())).dtype
    x = rng.standard_normal((5, 3, layer.input_size)).astype(dtype)
    y, z = layer(params, x)[0], other(read, x if layer.batch_first == other.batch_first else x.swapaxes(0, 1))[0]
    z = z if layer.batch_first == other.batch_first else z.swapaxes(0, 1)
    return float(np.max(np.abs(y - z)))


def as_onnx(model: Any, target: Path) -> str:
    """The same of a graph, which is read back and run here, and by ONNX Runtime where that is installed."""
    from ..interop import onnx
    from ..interop._converted import example
    from ..interop.onnx._elsewhere import elsewhere

    x = example(model)
    if x is None:
        return "nothing in it tells the size of an input"
    y, words = model.predict(x).y, ""
    try:
        back = onnx.load(target).run({"x": x})["y"]
    except ValueError as error:  # it was written as operators that are not read
        words = f"not read back: {error}"
    else:
        words = f"read back, {close(float(np.max(np.abs(back - y))), target)} in the outputs"
    try:
        there = elsewhere(target, {"x": x})
    except ValueError as error:
        return f"{words}; {error}"
    if there is None:
        return f"{words}; onnxruntime, which is not installed, was not asked"
    version, found = there
    return f"{words}; in ONNX Runtime {version} {close(float(np.max(np.abs(found['y'] - y))), target)}"
