"""Files that nobody would choose to train on: a sentence that says what is missing, or a detector that can be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.bundle import Bundle, open_detector, write
from stream_app.config import Config, Windows, parse
from stream_app.errors import ConfigurationError
from stream_app.files.detect import Job, detect_with
from stream_app.model_store.gate import most_episodes
from training.making import Making, make
from training.reading import Period, read

US = 1_600_000_000_000_000
QUICK = parse({"sources": [{"topic": "t"}], "training": {"steps": 10}})
RNG = np.random.default_rng(0)


def signal(n: int, sensors: int = 3) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.sin(np.arange(n)[:, None] / 20 + np.arange(sensors)) + rng.normal(0, 0.1, (n, sensors))


def wide(x: np.ndarray, at_s: np.ndarray | None = None) -> pa.Table:
    at_s = np.arange(len(x)) if at_s is None else at_s
    t = pa.array(US + at_s * 1_000_000, pa.timestamp("us", tz="UTC"))
    return pa.table({"t": t, **{f"s{i}": x[:, i] for i in range(x.shape[1])}})


def changed(n: int, change: Callable[[np.ndarray], object]) -> pa.Table:
    x = signal(n)
    change(x)
    return wide(x)


def long(parts: list[tuple[str, str, np.ndarray, np.ndarray]]) -> pa.Table:
    """Of entity, sensor, seconds, values."""
    columns = {
        "entity": np.concatenate([[entity] * len(t) for entity, _, t, _ in parts]),
        "sensor": np.concatenate([[sensor] * len(t) for _, sensor, t, _ in parts]),
        "t": pa.array(
            (US + np.concatenate([t for *_, t, _ in parts]) * 1e6).astype(np.int64), pa.timestamp("us", "UTC")
        ),
        "value": np.concatenate([x for *_, x in parts]),
    }
    return pa.table(columns)


def tokens(entity: list[str], token: np.ndarray | list[int]) -> pa.Table:
    t = pa.array(US + np.arange(len(token)) * 1000, pa.timestamp("us", tz="UTC"))
    return pa.table({"entity": entity, "t": t, "token": token})


def sessions(n: int, size: int, vocabulary: int = 8) -> pa.Table:
    names = np.repeat([f"e{i}" for i in range(n)], size).tolist()
    return tokens(names, (np.arange(n * size) * 7 // 3) % vocabulary)


def rates() -> pa.Table:
    """Twelve sensors of one machine, the fastest 87 times as fast as the slowest."""
    at = [np.arange(0, 300, 1 / (0.2 * 1.5**i)) for i in range(12)]
    return long([("m", f"r{i}", t, np.sin(t / 7 + i) + RNG.normal(0, 0.1, len(t))) for i, t in enumerate(at)])


def unequal() -> pa.Table:
    sizes = [("big", 1_500), ("small", 10)]
    return long([(e, f"s{c}", np.arange(n), signal(n)[:, c]) for e, n in sizes for c in range(3)])


ORDER = np.random.default_rng(2).permutation(400)
REFUSED: dict[str, tuple[Callable[[], pa.Table], str]] = {
    "no rows": (lambda: wide(signal(0)), "no samples to train on"),
    "one row": (lambda: wide(signal(1)), "no sensor has two samples"),
    "two rows": (lambda: wide(signal(2)), "2 frames of 1 s with data are too few .* at least 100 are needed"),
    "ninety rows": (lambda: wide(signal(90)), r"90 frames .* at least 100 are needed, 100 seconds of data"),
    "constant": (lambda: wide(np.ones((400, 3))), "none of the 3 sensors ever changes"),
    "missing": (lambda: wide(np.full((400, 3), np.nan)), "no samples to train on"),
    "one time for all": (lambda: wide(signal(400), np.zeros(400, int)), "no sensor has two samples"),
    "one token": (lambda: tokens(["e"], [1]), "1 tokens in 1 sessions are too few"),
    "few sessions": (lambda: sessions(5, 40), "make 5 windows, .* at least 50 are needed"),
}  # fmt: skip
USED: dict[str, Callable[[], pa.Table]] = {
    "just enough": lambda: wide(signal(150)),
    "one constant sensor": lambda: changed(400, lambda x: x[:, 2].fill(7.0)),
    "a sensor that appears later": lambda: changed(600, lambda x: x[:400, 2].fill(np.nan)),
    "infinite values": lambda: changed(400, lambda x: x[100:120, 1].fill(np.inf)),
    "times repeated": lambda: wide(np.repeat(signal(200), 2, 0), np.repeat(np.arange(200), 2)),
    "times out of order": lambda: wide(signal(400)[ORDER], ORDER),
    "entities of very different size": unequal,
    "many rates": rates,
    "sixty sensors": lambda: wide(signal(300, 60)),
    "one token again and again": lambda: sessions(60, 40, 1),
}


def stored(table: pa.Table, folder: Path) -> Path:
    pq.write_table(table, folder / "in.parquet")
    return folder / "in.parquet"


def trained(file: Path, config: Config = QUICK) -> tuple[Bundle, list[str]]:
    """The bundle, and what was said on the way. Tokens train for as short a time as there is."""
    reading = read(str(file), Period(), None)
    said: list[str] = []
    how = Making(config=config, budget_s=0.5 if reading.data.kind == "tokens" else None)
    bundle, _ = make(reading.data, how, {}, said.append)
    return bundle, said


@pytest.mark.parametrize("kind", REFUSED)
def test_what_can_not_teach_is_refused_by_what_was_found_and_what_is_needed(kind: str, tmp_path: Path) -> None:
    table, words = REFUSED[kind]
    with pytest.raises(ConfigurationError, match=words) as refused:
        trained(stored(table(), tmp_path))
    assert refused.value.exit_code == 3
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", USED)
def test_what_can_teach_gives_a_detector_whose_every_score_is_a_number(kind: str, tmp_path: Path) -> None:
    file = stored(USED[kind](), tmp_path)
    bundle, _ = trained(file)
    assert bundle.tail, "alarms can be judged from the first window on"
    write(tmp_path / "bundle", bundle)
    detector = open_detector(tmp_path / "bundle")
    found = detect_with(detector, Job(file, tmp_path / "bundle", tmp_path / "out"))
    assert found.accounting["samples_read"] == sum(n for k, n in found.accounting.items() if k != "samples_read")
    scores = pq.read_table(tmp_path / "out" / "scores.parquet")
    assert scores.num_rows
    assert np.isfinite(scores["anomaly_score"].to_numpy()).all()
    assert found.n_alerts <= most_episodes(2 * detector.risk * scores.num_rows), "what was learned is not strange"


def test_the_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    digests = []
    for i, order in enumerate((np.arange(400), ORDER)):
        bundle, _ = trained(stored(wide(signal(400)[order], order), tmp_path))
        digests.append(write(tmp_path / str(i), bundle))
    assert digests[0] == digests[1]


def test_what_comes_twice_is_left_out_and_counted(tmp_path: Path) -> None:
    reading = read(str(stored(USED["times repeated"](), tmp_path)), Period(), None)
    assert len(reading.data) == 600
    assert any(note.startswith("600 samples left out") for note in reading.notes), reading.notes


def test_few_windows_are_warned_of_with_how_many_would_do(tmp_path: Path) -> None:
    _, said = trained(stored(wide(signal(150)), tmp_path))
    assert any(line.startswith("warning: 150 windows are few") for line in said), said


def test_windows_that_are_asked_for_and_not_used_are_told_before_training(tmp_path: Path) -> None:
    """They used to be passed over without a word, and the worker then cut what nothing was fitted to."""
    file = stored(wide(signal(150)), tmp_path)
    _, said = trained(file, QUICK.model_copy(update={"windows": Windows(length="60s", stride="10s")}))
    (told,) = [line for line in said if line.startswith("not heeded")]
    assert "windows.length 1m, windows.stride 10s" in told
    assert "here they are of 90s every 1s" in told
    assert said.index(told) < next(i for i, line in enumerate(said) if "frames of" in line and "to learn from" in line)
    _, said = trained(file)
    assert not any(line.startswith("not heeded") for line in said)
