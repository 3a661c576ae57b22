"""`polyrnn convert`: a model from one library's file into another's."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ._words import print_row

MARGIN = 10


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
    """The largest difference between the model and the file that was written, on random input."""
    from ..interop import _files as files

    if into == "onnx":
        return as_onnx(model, target)
    named, told = files.layers(model), {}
    if not named:
        return "there is no recurrent layer to run"
    if into == "torch":  # whose files do not tell these
        layer = next(iter(named.values())).layer
        told = {key: getattr(layer, key) for key in ("batch_first", "nonlinearity") if hasattr(layer, key)}
    back = files.layers(files.read(target, into, **told))
    worst = max(difference(*pair) for pair in zip(named.values(), back.values(), strict=True))
    return f"read back, the outputs of {len(back)} layer{'s' * (len(back) != 1)} differ by {worst:.1e}"


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
    from ..interop.onnx._elsewhere import elsewhere

    x = example(model, np.random.default_rng(0))
    y = model.predict(x).y
    try:
        back = onnx.load(target).run({"x": x})["y"]
    except ValueError as error:  # it was written as operators that are not read
        words = f"not read back: {error}"
    else:
        words = f"read back, the outputs differ by {np.max(np.abs(back - y)):.1e}"
    try:
        there = elsewhere(target, {"x": x})
    except ValueError as error:
        return f"{words}; {error}"
    if there is None:
        return f"{words}; onnxruntime, which is not installed, was not asked"
    version, found = there
    return f"{words}, those of ONNX Runtime {version} by {np.max(np.abs(found['y'] - y)):.1e}"


def example(model: Any, rng: np.random.Generator) -> np.ndarray:
    """Random input of a module: ids for an embedding, else vectors."""
    from .. import Embedding

    first = model.module
    while hasattr(first, "members"):
        first = first.members[0][1]
    if isinstance(first, Embedding):
        return rng.integers(0, first.num_embeddings, (5, 3))
    dtype = next(iter(model.params.values())).dtype
    return rng.standard_normal((5, 3, getattr(first, "input_size", None) or first.in_features)).astype(dtype)
