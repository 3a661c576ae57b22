"""`polyrnn evaluate`: how well a model predicts a text."""

import math
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Unknown(StrEnum):
    """What to do with characters that the model does not know."""

    error = "error"
    skip = "skip"


def evaluate(
    model: Annotated[Path, typer.Argument(help="A model that `polyrnn train` wrote.", show_default=False)],
    text: Annotated[Path, typer.Argument(help="A text file in UTF-8.", show_default=False)],
    unknown: Annotated[
        Unknown, typer.Option(help="What to do with characters that the model does not know.")
    ] = Unknown.error,
    backend: Annotated[
        str | None, typer.Option(help="As for train.", show_default="POLYRNN_BACKEND, else numpy")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Such as cuda:1.", show_default="the backend's own")] = None,
) -> None:
    """Measure the bits per character that a model needs for TEXT."""
    from ..data import load_text
    from ..losses import softmax_cross_entropy
    from ..training import evaluate as mean_loss
    from ._model import kernel_of, load, named, reading_windows, unknown_characters
    from ._threads import Threads

    found = load(model, backend, device)
    content = load_text(text)
    skipped = 0
    if strange := unknown_characters(found.vocabulary, content):
        skipped = strange.total()
        if unknown is Unknown.error:
            most = ", ".join(f"{named(c)} {n:,} times" for c, n in strange.most_common(5))
            raise ValueError(
                f"{text}: {skipped:,} of {len(content):,} characters are unknown to the model: {most}"
                f"{', ...' if len(strange) > 5 else ''}; --unknown skip leaves them out"
            )
        content = content.translate(dict.fromkeys(map(ord, strange)))
    if len(content) < 2:
        raise ValueError(
            f"{text}: {len(content)} characters{' that the model knows' if skipped else ''}; expected at least 2, so "
            "that there is one to predict"
        )
    start = time.perf_counter()
    threads = Threads(found.backend, found.config["hidden_size"], batch=16, kernel=kernel_of(found, 128, 16))
    windows = threads.tune(reading_windows(found.vocabulary.encode(content)))
    loss = mean_loss(found.model, softmax_cross_entropy, found.params, windows)
    seconds = time.perf_counter() - start
    print(f"{loss / math.log(2):.4f} bits per character")
    left_out = f", {skipped:,} unknown ones left out" if skipped else ""
    print(f"{len(content):,} characters{left_out}, {(len(content) - 1) / seconds:,.0f} characters/s")
