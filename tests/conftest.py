"""The subjects as a fixture, and an account of them: one that was asked for and did not run fails the session."""

import importlib.util
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import subjects

if importlib.util.find_spec("jax"):
    subjects.compile_quickly()
    import jax

    # Once for the process: a context would not reach into functions that are compiled already.
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_dtype_promotion", "strict")

# Without JAX as a subject its own tests are not there; the summary says so.
collect_ignore = (
    [] if subjects.ALL["jax"] in subjects.running() else ["test_jax.py", "test_jax_stack.py", "test_optax.py"]
)

RAN: Counter[str] = Counter()
LIVE = importlib.util.find_spec("torch") is not None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Said in the summary; a skip would be read by nobody.
    left_out = [item for item in items if _empty(item) or (not LIVE and item.get_closest_marker("torch"))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _empty(item: pytest.Item) -> bool:
    """Whether no subject of this run has what the test needs."""
    return any("empty parameter set" in mark.kwargs.get("reason", "") for mark in item.iter_markers("skip"))


def pytest_configure(config: pytest.Config) -> None:
    for name in subjects.asked_for() or ():
        if name not in subjects.ALL:
            raise pytest.UsageError(f"{subjects.VARIABLE}: {name!r}; expected some of {', '.join(subjects.ALL)}")
        if reason := subjects.ALL[name].why_not():
            raise pytest.UsageError(f"{subjects.VARIABLE}: {name} was asked for and cannot run: {reason}")


@pytest.fixture(params=[subjects.param(subject) for subject in subjects.with_kernels(subjects.running())])
def subject(request: pytest.FixtureRequest) -> Iterator[subjects.Subject]:
    """Each subject of this run, with and without kernels."""
    request.node.user_properties.append(("subject", request.param.name))
    with subjects.only_kernel(request.param.kernel):
        yield request.param


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers that depend on the test alone; the same ones for each subject."""
    node = request.node
    params = node.callspec.params if hasattr(node, "callspec") else {}
    own = {key: value for key, value in params.items() if key != "subject"}
    seed = f"{node.module.__name__}/{node.originalname}/{own}"
    return np.random.default_rng(list(seed.encode()))


# Reports travel from pytest-xdist's workers to the process that counts; fixtures and globals do not.


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.outcome != "skipped":
        RAN.update(value for key, value in report.user_properties if key == "subject")


def _idle() -> list[str]:
    return [name for name in subjects.asked_for() or () if not RAN[name]]


def pytest_sessionfinish(session: pytest.Session, exitstatus: Any) -> None:
    counts = not hasattr(session.config, "workerinput") and not session.config.option.collectonly
    if counts and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) and _idle():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.option.collectonly:
        return
    write = terminalreporter.write_line
    terminalreporter.section("subjects")
    asked, runs = subjects.asked_for(), {subject.name for subject in subjects.running()}
    for name, subject in subjects.ALL.items():
        if name in runs:
            write(f"{name}: {RAN[name]} tests")
        elif asked is not None:
            write(f"{name}: not asked for in {subjects.VARIABLE}")
        else:
            write(f"{name}: cannot run: {subject.why_not()}")
    if not LIVE:
        write("live comparison with PyTorch: left out, torch is not installed (tox -e torch)")
    for name in _idle():
        write(f"FAILED {name} was asked for in {subjects.VARIABLE} and ran no test", red=True)
    if config.option.verbose > 0 and subjects.MEASURED:
        terminalreporter.section("largest errors")
        for (kind, dtype), error in sorted(subjects.MEASURED.items()):
            write(f"{kind} {dtype}: {error:.2g}")
