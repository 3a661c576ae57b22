"""The language model of the command line: from settings to modules, and from a file to a model that can run."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import GRU, LSTM, RNN, Dropout, Embedding, Linear, Module, Sequential, backend
from ..backends import Backend
from ..data import EvaluationWindow, Vocabulary, evaluation_windows
from ..kernels import Kernel, find

CELLS = {"rnn": RNN, "lstm": LSTM, "gru": GRU}


class LanguageModel(NamedTuple):
    """A model with all that is needed to run it."""

    model: Sequential
    params: dict[str, Any]
    vocabulary: Vocabulary
    config: dict[str, Any]
    backend: Backend


def build(config: dict[str, Any]) -> Sequential:
    """Embedding, recurrent layer and head, with dropout before and after the layer if there is any."""
    cell, size, hidden = config["cell"], config["embedding_size"], config["hidden_size"]
    characters = len(config["vocabulary"])
    if cell not in CELLS:
        raise ValueError(f"cell={cell!r}: expected one of {', '.join(CELLS)}")
    modules: dict[str, Module] = {"embedding": Embedding(characters, size), cell: CELLS[cell](size, hidden)}
    modules["head"] = Linear(hidden, characters)
    if rate := config["dropout"]:
        modules = {
            "embedding": modules["embedding"],
            "dropout_in": Dropout(rate),
            cell: modules[cell],
            "dropout_out": Dropout(rate),
            "head": modules["head"],
        }
    return Sequential(**modules)


def open_backend(name: str | None, device: str | None) -> Backend:
    """The backend of the options --backend and --device."""
    try:
        return backend(name, device)
    except ValueError as error:  # in the words of the library, but with the option's name
        raise ValueError(str(error).replace("name=", "--backend ", 1)) from error


def load(path: Path, backend_name: str | None, device: str | None) -> LanguageModel:
    """A model that `polyrnn train` wrote, on a backend.

    Raises OSError if the file cannot be read, ValueError if it is no such model, or damaged.
    """
    from .. import checkpoint

    chosen = open_backend(backend_name, device)
    params, config = checkpoint.load(path)
    try:
        vocabulary = Vocabulary(config["vocabulary"])
        model = build(config)
        expected = model.shapes()
        found = {name: tuple(array.shape) for name, array in params.items()}
        if found != expected:
            raise ValueError(f"the parameters {found} do not fit; expected {expected}")
    except (KeyError, TypeError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"{path}: not a language model that `polyrnn train` wrote: {what}") from error
    return LanguageModel(model, chosen.asarray(params), vocabulary, config, chosen)


def kernel_of(found: LanguageModel, time: int, batch: int) -> Kernel | None:
    """The kernel that runs the model's recurrence over windows of that size; None where the reference does."""
    members: dict[str, Any] = dict(found.model.members)
    cell, xp = members[found.config["cell"]].cell, found.backend.xp
    dtype = next(iter(found.params.values())).dtype
    x = xp.empty((time, found.config["embedding_size"], batch), dtype=dtype, device=found.backend.device)
    return find(found.backend, cell, x, None)


def unknown_characters(vocabulary: Vocabulary, text: str) -> Counter[str]:
    """The characters of a text that a model does not know, and how often each occurs."""
    strange = set(text) - set(vocabulary.characters)
    return Counter({character: text.count(character) for character in sorted(strange)})


def known_prompt(vocabulary: Vocabulary, prompt: str) -> str:
    """The prompt, if the model knows its characters; in the place of an empty one what stands before a beginning.

    That is a newline, as a text's lines begin after one, or in a text without lines its first known character.
    """
    if strange := unknown_characters(vocabulary, prompt):
        character = min(strange, key=prompt.index)
        raise ValueError(
            f"--prompt {prompt!r}: unknown character {named(character)} at position {prompt.index(character)}; the "
            f"model knows {len(vocabulary)} characters: {vocabulary.characters!r}"
        )
    return prompt or ("\n" if "\n" in vocabulary.characters else vocabulary.characters[0])


def named(character: str) -> str:
    """A character in quotation marks, with its code point."""
    return f"{character!r} (U+{ord(character):04X})"


def reading_windows(ids: np.ndarray) -> Iterator[EvaluationWindow]:
    """The windows in which bits per character are measured.

    Up to 16 streams at a time, each of at least 1,000 characters and from an empty state: against reading in one
    stream that costs some thousandths of a bit, and is many times faster.
    """
    streams = max(1, min(16, len(ids) // 1000))
    return evaluation_windows(ids, streams, min(128, max(1, math.ceil((len(ids) - 1) / streams))))
