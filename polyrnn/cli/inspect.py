"""`polyrnn inspect`: what is in a model's file."""

import inspect as python_inspect
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ._words import print_row

MARGIN = 12


def inspect(
    model: Annotated[Path, typer.Argument(help="A file of any format that `convert` reads.", show_default=False)],
    from_: Annotated[
        str | None,
        typer.Option("--from", help="polyrnn, torch, keras, onnx or npz.", show_default="by the extension"),
    ] = None,
    equations: Annotated[bool, typer.Option(help="Show the equations of the cells.")] = True,
) -> None:
    """Show the architecture, the parameters, the size, and the equations in use."""
    from ..interop import _files as files
    from ..model import Model
    from .convert import in_words

    form = files.format_of(model, from_, "--from", reading=True)
    found = files.read(model, form)
    print_row("File", f"{model}, {form}, {model.stat().st_size:,} bytes", MARGIN)
    if isinstance(found, Model):
        show_module(found.module, "model", 0)
        show_parameters(found.params)
    named = files.layers(found)
    for name, (layer, params) in named.items():
        if not isinstance(found, Model):
            print_row("Layer", f"{name or '(no name)'}: {in_words(layer, params, files.FORMATS[form].order)}", MARGIN)
            show_parameters(params)
    if equations:
        for words in dict.fromkeys(equations_of(layer) for layer, _ in named.values()):
            print(f"\n{words}")


def show_module(module: Any, name: str, depth: int) -> None:
    """A module in a line, with its members below it."""
    from ..model import describe

    members = getattr(module, "members", None)
    options = {key: value for key, value in describe(module).items() if key not in ("type", "members")}
    words = ", ".join(f"{key}={value!r}" for key, value in options.items())
    print_row("Model" if not depth else "", f"{'  ' * depth}{name}: {type(module).__name__}({words})", MARGIN)
    for inner, member in members or ():
        show_module(member, inner, depth + 1)


def show_parameters(params: dict) -> None:
    """Each array in a line, and their sum."""
    for name, array in params.items():
        print_row("", f"{name} {tuple(array.shape)} {array.dtype}", MARGIN)
    count, size = sum(int(np.prod(a.shape)) for a in params.values()), sum(a.nbytes for a in params.values())
    print_row("Parameters", f"{count:,}, {size:,} bytes", MARGIN)


def equations_of(layer: Any) -> str:
    """The part of a cell's page that has the equations."""
    cell = layer.cell
    page = python_inspect.getdoc(sys.modules[type(cell).__module__]) or ""
    title = f"{type(layer).__name__}, {type(cell).__name__}"
    if "reset_after" in {*vars(layer)} and not layer.reset_after:
        title += ", reset before"
    _, _, rest = page.partition("---------\n")
    return f"{title}\n\n{rest.partition('Backward')[0].strip()}"
