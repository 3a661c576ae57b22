"""Words on the terminal."""

import shutil
import sys
import textwrap


def print_row(name: str, words: str, margin: int) -> None:
    """A name, and words from a column on; wrapped there on a terminal, in one line elsewhere."""
    first = f"{name} ".ljust(margin)
    width = max(shutil.get_terminal_size().columns, margin + 20) if sys.stdout.isatty() else 100_000
    rest = " " * margin
    print(textwrap.fill(words, width, initial_indent=first, subsequent_indent=rest, break_long_words=False), flush=True)
