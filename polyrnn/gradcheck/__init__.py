"""Whether hand-written gradients are right: a public checker for layers, losses and any pair of functions.

`check_layer`, `check_loss` and `check_textbook` check what is in this library or follows its contracts; `check` takes
any forward and backward function. Each returns a `Report`. What the methods prove and what not: `docs/checking.md`.
"""

from ._functions import check
from ._layers import check_layer, compare_backends
from ._losses import check_loss
from ._report import TOLERANCES, Report, Row, WrongGradient
from ._textbook import check_textbook

__all__ = [
    "TOLERANCES",
    "Report",
    "Row",
    "WrongGradient",
    "check",
    "check_layer",
    "check_loss",
    "check_textbook",
    "compare_backends",
]
