"""The commands under one name, and what becomes of an error."""

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from ..backends import BackendUnavailable
from .check import check
from .convert import convert
from .evaluate import evaluate
from .info import info
from .inspect import inspect
from .run import run
from .sample import sample
from .train import train

# What the library raises for bad input: one line, exit code 2. Anything else is its own fault, with a traceback.
EXPECTED = (ValueError, TypeError, OSError, MemoryError, BackendUnavailable)


class Commands(TyperGroup):
    """The group of all commands."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; an error of the user's becomes one line on stderr."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("Interrupted.", file=sys.stderr)
            raise typer.Exit(130) from None
        except BrokenPipeError:
            silence_stdout()
            raise typer.Exit(1) from None
        except EXPECTED as error:
            if ctx.params.get("traceback"):
                raise
            print(f"Error: {in_one_line(error)}", file=sys.stderr)
            raise typer.Exit(2) from None


def in_one_line(error: BaseException) -> str:
    """The words of an error; a system's error without its number."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    words = " ".join(str(error).split()) or type(error).__name__
    return f"not enough memory: {words}" if isinstance(error, MemoryError) else words


def silence_stdout() -> None:
    """Nobody reads any more: what is still in the buffer goes nowhere, and quietly so."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # not a file
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (for the rest of the process)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"polyrnn {__version__}")
        raise typer.Exit


@app.callback()
def polyrnn(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error came from, not only what it says.")
    ] = False,
) -> None:
    """Recurrent networks on NumPy, CuPy and JAX, with hand-written and proven gradients."""


for command in (train, sample, evaluate, run, convert, inspect, check, info):
    app.command()(command)
