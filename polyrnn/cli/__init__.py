"""The command line: `polyrnn train`, `sample`, `evaluate`, `check` and `info`, one file a command."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line with the arguments of the process, and exit."""
    try:
        import rich  # noqa: F401
        import threadpoolctl  # noqa: F401
        import typer  # noqa: F401
    except ImportError as error:
        print(f'polyrnn: the command line needs {error.name}: pip install "polyrnn[cli]"', file=sys.stderr)
        raise SystemExit(2) from None
    from ._app import app

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a character that the terminal cannot show is no reason to stop
            stream.reconfigure(errors="replace")
    app(prog_name="polyrnn")
