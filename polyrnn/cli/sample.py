"""`polyrnn sample`: text from a model, character by character."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from .._module import Module
from ..backends import backend_of
from ..data import Vocabulary


def sample(
    model: Annotated[Path, typer.Argument(help="A model that `polyrnn train` wrote.", show_default=False)],
    prompt: Annotated[
        str, typer.Option(help="What the text begins with.", show_default="the beginning of a line")
    ] = "",
    length: Annotated[int, typer.Option(min=0, help="Characters to generate after the prompt.")] = 500,
    temperature: Annotated[
        float, typer.Option(help="Below 1 bolder, above 1 more varied; 0 takes the most probable character.")
    ] = 0.8,
    seed: Annotated[int, typer.Option(help="Of the random numbers: the same seed gives the same text.")] = 0,
    backend: Annotated[
        str | None, typer.Option(help="As for train.", show_default="POLYRNN_BACKEND, else numpy")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Such as cuda:1.", show_default="the backend's own")] = None,
) -> None:
    """Generate text, one character at a time and in constant memory."""
    from ._app import silence_stdout
    from ._model import known_prompt, load

    check_sampling(temperature, seed)
    found = load(model, backend, device)
    begin = known_prompt(found.vocabulary, prompt)
    try:
        print(prompt, end="", flush=True)
        for character in generate(found.model, found.params, found.vocabulary, begin, length, temperature, seed):
            print(character, end="", flush=True)
        print(flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has all that it wants
        silence_stdout()


def check_sampling(temperature: float, seed: int) -> None:
    """ValueError unless text can be drawn with these."""
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"--temperature {temperature}: expected a finite number >= 0")
    if seed < 0:
        raise ValueError(f"--seed {seed}: expected a whole number >= 0")


def generate(
    model: Module,
    params: dict[str, Any],
    vocabulary: Vocabulary,
    prompt: str,
    length: int,
    temperature: float,
    seed: int,
) -> Iterator[str]:
    """The characters that follow a prompt of at least one character."""
    from ..training import initial_state

    backend = backend_of(params)
    step = backend.jit(model.step)
    rng = np.random.default_rng(seed)
    ids = [backend.asarray(np.asarray([k])) for k in vocabulary.encode(vocabulary.characters)]
    pending = vocabulary.encode(prompt).tolist()
    state = initial_state(model, params, ids[0][None, :])
    for k in pending[:-1]:
        _, state = step(params, ids[k], state)
    k = pending[-1]
    for _ in range(length):
        logits, state = step(params, ids[k], state)
        k = choose(backend.to_numpy(logits)[0], temperature, rng)
        yield vocabulary.characters[k]


def choose(logits: np.ndarray, temperature: float, rng: np.random.Generator) -> int:
    """An id drawn from softmax(logits / temperature); the largest logit's at temperature 0."""
    z = logits.astype(np.float64)
    if not np.isfinite(z).all():
        raise ValueError("the model's predictions are not finite: its training has diverged")
    if temperature == 0:
        return int(z.argmax())
    with np.errstate(over="ignore"):
        weights = np.exp((z - z.max()) / temperature)  # between 0 and 1
    return int(np.searchsorted(np.cumsum(weights), rng.random() * weights.sum(), side="right").clip(max=len(z) - 1))
