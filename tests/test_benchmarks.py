"""The benchmarks' own arithmetic: operations, agreement, statistics, files. Nothing is timed here."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

import polyrnn

FOLDER = Path(__file__).parent.parent / "benchmarks"
sys.path.append(str(FOLDER))
import jobs  # noqa: E402
import report  # noqa: E402
import textbook  # noqa: E402
import turns  # noqa: E402
import workers  # noqa: E402


@pytest.fixture(autouse=True)
def _reference():
    """No kernel is compiled for these."""
    with polyrnn.use_kernels(False):
        yield


def job(way="forward", cell="LSTM", **more):
    return jobs.Job(way, way, cell, "test", 7, 3, 5, 6, more.pop("dtype", "float64"), **more)


def test_operations_of_the_floor():
    assert job().operations() == 2 * 7 * 3 * 4 * 6 * (5 + 6)
    assert job("train", "GRU").operations() == 3 * 2 * 7 * 3 * 3 * 6 * (5 + 6)
    assert job(layers=2, bidirectional=True).operations() == 2 * 2 * 7 * 3 * 4 * 6 * ((5 + 6) + (12 + 6))
    some = job(lengths=True)
    assert some.operations() == job().operations() * jobs.valid_lengths(some).sum() / 21


def test_dy_is_zero_in_the_padding():
    some = job(lengths=True)
    _, dy = jobs.arrays(some)
    for n, length in enumerate(jobs.valid_lengths(some)):
        assert np.all(dy[length:, n] == 0) and np.all(dy[:length, n] != 0)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ({"y": np.ones(3), "dx": np.ones(2)}, None),
        ({"y": np.ones(3), "dx": np.array([1, 1 + 1e-6])}, "dx"),
        ({"y": np.array([1, 1, np.nan]), "dx": np.ones(2)}, "y"),
        ({"y": np.ones((3, 1)), "dx": np.ones(2)}, "instead of"),
        ({"y": np.ones(3)}, "gives no dx"),
    ],
)
def test_who_disagrees_is_not_timed(found, why):
    said = jobs.disagreement(job("train"), found, {"y": np.ones(3), "dx": np.ones(2)})
    assert (said is None) if why is None else (why in said)


@pytest.mark.parametrize("cell", ["RNN", "LSTM"])
@pytest.mark.parametrize("way", ["forward", "train"])
def test_the_textbooks_loop_does_the_same_work(cell, way):
    results = []
    for subject in (workers.Layer("numpy"), workers.Textbook(textbook)):
        prepared = subject.prepare(job(way, cell))
        results.append(prepared.result(prepared.run()))
    assert jobs.disagreement(job(way, cell), results[1], results[0]) is None


def test_a_turn_repeats_the_job():
    calls = []
    found = workers.turn(lambda: calls.append(1), None, 0.0)
    assert found["runs"] == 3 and len(calls) > 3


def test_spread():
    assert turns.spread([3.0, 1.0, 2.0]) == {"median": 2.0, "low": 1.0, "high": 3.0}
    assert turns.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == {"median": 3.0, "low": 2.0, "high": 4.0}


def test_a_process_answers_and_is_checked(tmp_path):
    own = job("train", dtype="float32")
    prepared = workers.Layer("numpy").prepare(own)
    expected = prepared.result(prepared.run())
    with turns.Subject("textbook-loop", 1, [sys.executable]) as subject:
        assert "ms" in subject.ask({"do": "first", "job": own, "save": str(tmp_path / "result.npz")})
        assert subject.ask({"do": "turn", "job": own, "seconds": 0})["runs"] >= 1
        assert subject.ask({"do": "turn", "job": job(cell="GRU"), "seconds": 0}) == {"skip": True}
        assert "error" in subject.ask({"do": "turn", "job": [], "seconds": 0})
    with np.load(tmp_path / "result.npz") as file:
        assert jobs.disagreement(own, dict(file), expected) is None


def test_a_subject_that_cannot_start_says_why():
    with pytest.raises(RuntimeError, match="no-such"):
        turns.Subject("no-such", 1, [sys.executable])


def record():
    rows = []
    for way in ("forward", "train"):
        for subject, ms in (("polyrnn-numpy", 1.25), ("torch", 2.5)):
            row = job(way, dtype="float32")._asdict() | {"subject": subject, "unit": "ms", "turns": 3, "all": [ms] * 3}
            row |= {"median": ms, "low": 0.9 * ms, "high": 1.1 * ms, "floor": 0.5, "first call beyond": 7.0}
            rows.append(row | {"ratio median": ms / 1.25, "ratio low": 1.0, "ratio high": 2.0})
    return {
        "date": "2026-01-01",
        "polyrnn": "0",
        "commit": None,
        "machine": {"processor": "P", "cores": 2, "threads": 2},
        "versions": {"numpy": "2"},
        "rates": {"float32": 100.0},
        "subjects": {"polyrnn-numpy": {"start_ms": 1.0}, "torch": {"start_ms": 2.0}},
        "kernels": {},
        "rows": rows,
    }


def test_a_record_goes_into_the_history_and_comes_back(tmp_path):
    path = tmp_path / "history.json"
    for _ in range(2):
        report.append(record(), path)
    found = report.last(path)
    assert report.markdown(found) == report.markdown(record())
    assert "| torch | 2.5 ±10% (2.00) |" in report.markdown(found)


def test_the_csv_has_a_line_a_row(tmp_path):
    report.write_csv(record(), tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["subject"] for line in lines] == ["polyrnn-numpy", "torch"] * 2
    assert lines[1]["median"] == "2.5"


def test_the_picture(tmp_path):
    pytest.importorskip("matplotlib")
    assert report.draw(record(), tmp_path / "speed.png")
    assert (tmp_path / "speed.png").stat().st_size > 10_000
