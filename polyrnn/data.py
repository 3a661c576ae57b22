"""Text as integers, and integers as the windows of truncated backpropagation through time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "EvaluationWindow",
    "Vocabulary",
    "Window",
    "default_text",
    "evaluation_windows",
    "load_text",
    "split",
    "windows",
    "windows_per_epoch",
]


@dataclass(frozen=True)
class Vocabulary:
    """The characters that a model knows; a character's id is its place.

    Parameters
    ----------
    characters : str
        Distinct, in the order of their code points; `Vocabulary.of` makes it from a text. A string goes into
        JSON as it is.

    Raises
    ------
    ValueError
        If it is empty, not in order, or names a character twice.

    Examples
    --------
    >>> vocabulary = Vocabulary.of("hello world")
    >>> vocabulary.characters
    ' dehlorw'
    >>> vocabulary.encode("hello")
    array([3, 2, 4, 4, 5], dtype=int32)
    >>> vocabulary.decode([3, 2, 4, 4, 5])
    'hello'
    """

    characters: str

    def __post_init__(self) -> None:
        if not self.characters:
            raise ValueError("characters='': a vocabulary needs at least one character")
        if list(self.characters) != sorted(set(self.characters)):
            raise ValueError(
                f"characters={_short(self.characters)}: expected distinct characters in the order of their "
                "code points, as Vocabulary.of(text) makes them"
            )

    def __len__(self) -> int:
        return len(self.characters)

    @classmethod
    def of(cls, text: str) -> "Vocabulary":
        """The characters of a text."""
        return cls("".join(sorted(set(text))))

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text's characters.

        Parameters
        ----------
        text : str

        Returns
        -------
        array, int32, shape (length,)

        Raises
        ------
        ValueError
            If a character is not in the vocabulary.
        """
        known, points = _code_points(self.characters), _code_points(text)
        ids = np.minimum(np.searchsorted(known, points), len(known) - 1)
        unknown = known[ids] != points
        if unknown.any():
            position = int(unknown.argmax())
            raise ValueError(
                f"text: unknown character {text[position]!r} (U+{ord(text[position]):04X}) at position "
                f"{position}; the {len(self)} known characters are {_short(self.characters, 200)}"
            )
        return ids.astype(np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of some ids.

        Parameters
        ----------
        ids : sequence of int, or integer array of one axis

        Returns
        -------
        str

        Raises
        ------
        ValueError
            If an id is out of range.
        """
        array = np.asarray(ids)
        if array.size == 0:
            return ""
        if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"ids: dtype {array.dtype} and shape {array.shape}; expected integers in one axis")
        bad = (array < 0) | (array >= len(self))
        if bad.any():
            position = int(bad.argmax())
            raise ValueError(f"ids: {array[position]} at position {position}; expected 0 <= id < {len(self)}")
        return "".join(self.characters[k] for k in array.tolist())


def load_text(path: str | PathLike[str]) -> str:
    """The text of a file in UTF-8; line ends become newlines, a byte order mark is dropped.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    str

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not UTF-8, or empty.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not a text in UTF-8: byte 0x{error.object[error.start]:02x} at position {error.start} "
            f"({error.reason}); convert the file to UTF-8"
        ) from error
    if not text:
        raise ValueError(f"{path}: the file is empty; expected a text")
    return text


def default_text() -> str:
    """The Python language reference that ships inside CPython: about 0.46 million characters of real text.

    It is `pydoc_data.topics`, its topics in alphabetical order; the text differs a little between versions of
    Python.

    Returns
    -------
    str

    Examples
    --------
    >>> default_text()[:22]
    'The "assert" statement'
    """
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def split(text: str, held_back: float = 0.1) -> tuple[str, str]:
    """The beginning of a text to train on, and its end to be held back.

    Parameters
    ----------
    text : str
    held_back : float
        The share that is held back, 0 <= held_back < 1.

    Returns
    -------
    train, held : str

    Raises
    ------
    ValueError
        If the share is out of range.

    Examples
    --------
    >>> split("abcdefghij", held_back=0.2)
    ('abcdefgh', 'ij')
    """
    if not 0 <= held_back < 1:
        raise ValueError(f"held_back={held_back!r}: expected a share, 0 <= held_back < 1")
    cut = len(text) - round(len(text) * held_back)
    return text[:cut], text[cut:]


class Window(NamedTuple):
    """A block of every stream.

    Attributes
    ----------
    x, y : array, int32, shape (T, N)
        Ids, and the ids that follow them: y is x one step later.
    new_epoch : bool
        True where the streams begin (again): the state must not be carried over from the window before.
    """

    x: np.ndarray
    y: np.ndarray
    new_epoch: bool


class EvaluationWindow(NamedTuple):
    """A block of every stream, for evaluation.

    Attributes
    ----------
    x, y : array, int32, shape (T, N)
        Ids, and the ids that follow them; 0 past the end of a stream.
    mask : array, bool, shape (T, N)
        True where there is something to predict.
    """

    x: np.ndarray
    y: np.ndarray
    mask: np.ndarray


def windows_per_epoch(length: int, batch: int, time: int) -> int:
    """How many windows of `windows` go through a text of that length once.

    Parameters
    ----------
    length : int
        Number of ids.
    batch, time : int
        N and T.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If N or T is below 1.

    Examples
    --------
    >>> windows_per_epoch(101, batch=5, time=6)
    3
    """
    for name, value in (("batch", batch), ("time", time)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r}: expected an int >= 1")
    return max(length - 1, 0) // batch // time


def windows(ids: np.ndarray, batch: int, time: int) -> Iterator[Window]:
    """Windows for truncated backpropagation through time, without end.

    The ids are cut into N streams that follow one another in the text, and each stream into windows of T that
    follow one another in time: the state after a window belongs to the same streams at the beginning of the
    next. At the end of an epoch the streams begin again; what fills no window (fewer than N (T + 1) ids, at
    the streams' ends) is left out.

    Parameters
    ----------
    ids : array, integer, shape (length,)
    batch, time : int
        N and T.

    Returns
    -------
    iterator of Window

    Raises
    ------
    ValueError
        At the call, if `ids` has another rank or dtype, or is too short for one window.

    Examples
    --------
    >>> stream = windows(np.arange(9), batch=2, time=2)
    >>> for _ in range(3):
    ...     x, y, new_epoch = next(stream)
    ...     print(x.tolist(), y.tolist(), new_epoch)
    [[0, 4], [1, 5]] [[1, 5], [2, 6]] True
    [[2, 6], [3, 7]] [[3, 7], [4, 8]] False
    [[0, 4], [1, 5]] [[1, 5], [2, 6]] True
    """
    ids = _ids(ids)
    count = windows_per_epoch(len(ids), batch, time)
    if count == 0:
        raise ValueError(
            f"ids: {len(ids)} characters are too few for one window of batch={batch} streams x time={time} "
            f"steps, which needs {batch * time + 1}; use a longer text, or a smaller batch or time"
        )
    return _windows(ids, batch, time, count)


def _windows(ids: np.ndarray, batch: int, time: int, count: int) -> Iterator[Window]:
    length = (len(ids) - 1) // batch
    # Time first: a window is a block of rows.
    x = np.ascontiguousarray(ids[: batch * length].reshape(batch, length).T)
    y = np.ascontiguousarray(ids[1 : batch * length + 1].reshape(batch, length).T)
    while True:
        for k in range(count):
            rows = slice(k * time, (k + 1) * time)
            yield Window(x[rows].copy(), y[rows].copy(), k == 0)


def evaluation_windows(ids: np.ndarray, batch: int, time: int) -> Iterator[EvaluationWindow]:
    """Windows that predict every id but the first exactly once.

    As in `windows` the state is carried from window to window, from zero at the first one. With N = 1 every
    id is predicted from all that went before; with more, a stream begins without what went before it in the
    text.

    Parameters
    ----------
    ids : array, integer, shape (length,)
        At least two.
    batch, time : int
        N and T.

    Returns
    -------
    iterator of EvaluationWindow

    Raises
    ------
    ValueError
        At the call, if `ids` has another rank or dtype, or nothing to predict.

    Examples
    --------
    >>> for x, y, mask in evaluation_windows(np.arange(8), batch=2, time=3):
    ...     print(y.tolist(), mask.tolist())
    [[1, 5], [2, 6], [3, 7]] [[True, True], [True, True], [True, True]]
    [[4, 0], [0, 0], [0, 0]] [[True, False], [False, False], [False, False]]
    """
    ids = _ids(ids)
    windows_per_epoch(len(ids), batch, time)  # checks batch and time
    if len(ids) < 2:
        raise ValueError(f"ids: {len(ids)} characters; expected at least 2, so that there is one to predict")
    return _evaluation_windows(ids, batch, time)


def _evaluation_windows(ids: np.ndarray, batch: int, time: int) -> Iterator[EvaluationWindow]:
    predicted = len(ids) - 1
    length = -(-predicted // batch)
    padded = -(-length // time) * time

    def streams(values: Any) -> np.ndarray:
        whole = np.zeros((batch * length,), dtype=values.dtype)
        whole[:predicted] = values
        result = np.zeros((padded, batch), dtype=values.dtype)
        result[:length] = whole.reshape(batch, length).T
        return result

    x, y, mask = streams(ids[:-1]), streams(ids[1:]), streams(np.ones(predicted, dtype=bool))
    for start in range(0, padded, time):
        rows = slice(start, start + time)
        yield EvaluationWindow(x[rows].copy(), y[rows].copy(), mask[rows].copy())


def _ids(ids: np.ndarray) -> np.ndarray:
    if not isinstance(ids, np.ndarray) or ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        what = f"dtype {ids.dtype}, shape {ids.shape}" if isinstance(ids, np.ndarray) else repr(type(ids).__name__)
        raise ValueError(f"ids: {what}; expected a NumPy array of integers in one axis, as Vocabulary.encode gives")
    return ids.astype(np.int32)


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _short(text: str, limit: int = 80) -> str:
    return repr(text) if len(text) <= limit else f"{text[:limit]!r}..."
