"""Labelled series for measuring: normal data to train on, and series whose anomalies are known.

In: a folder of NPZ files. Out: `Case`s, as tables that `tailrace train` and `tailrace detect` read. Remembers: nothing.

    NAME.npz of a set        x [time, channel], y [time], channels, rate_hz, n_train: trained on what is before n_train
    NAME.npz of flights      x_G [time, channel], t_G [ms], ch_G for each group G of sensors, t_grid [ms], y_grid:
                             trained on those whose name says no_failure, and on every second other until 5 s before
                             its fault; judged on the rest
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from models.scenes import F32, I64
from training.detection_metrics import Labels

EPOCH_US = 1_577_836_800_000_000
NORMAL = "no_failure"
BEFORE_US = 5_000_000  # of a fault: nobody knows to the second when it began
ROWS_MIN = 100


@dataclass(frozen=True)
class Judged:
    """A labelled series: its samples, and at which times it is labelled how."""

    name: str
    table: pa.Table
    t_us: I64
    label: Labels


@dataclass(frozen=True)
class Case:
    """One bundle's worth: what is trained on, and what is then judged."""

    name: str
    single: bool  # one sensor
    train: pa.Table
    judged: tuple[Judged, ...]


def cases(folder: Path, n: int) -> Iterator[Case]:
    """At most n of a set, spread evenly over it; of flights one case with at most n judged."""
    files = sorted(folder.glob("*.npz"))
    if any(NORMAL in file.name for file in files):
        yield _flights(files, n)
        return
    known = [case for case in (_series(file) for file in files) if case is not None]
    step = max(1, len(known) // n)
    yield from known[::step][:n]


def _series(file: Path) -> Case | None:
    """None where there is nothing to find or hardly anything to learn from."""
    z = np.load(file)
    x, y, n, rate = z["x"], z["y"].astype(np.int64), int(z["n_train"]), float(z["rate_hz"])
    if not y[n:].any() or y[n:].all() or n < ROWS_MIN:
        return None
    t_us = EPOCH_US + (np.arange(len(x)) * (1e6 / (rate if np.isfinite(rate) and rate > 0 else 1.0))).astype(np.int64)
    judged = Judged(file.stem, _wide(x[n:], t_us[n:], z["channels"]), t_us[n:], y[n:])
    return Case(f"{file.parent.name}/{file.stem}", x.shape[1] == 1, _wide(x[:n], t_us[:n], z["channels"]), (judged,))


def _wide(x: F32, t_us: I64, channels: np.ndarray) -> pa.Table:
    columns = {"t": pa.array(t_us, pa.timestamp("us", tz="UTC"))}
    return pa.table(
        columns | {str(c): pa.array(x[:, i].astype(np.float32), from_pandas=True) for i, c in enumerate(channels)}
    )


def _flights(files: list[Path], n: int) -> Case:
    normal = [_flight(file) for file in files if NORMAL in file.name]
    others = [_flight(file) for file in files if NORMAL not in file.name]
    parts = [flight.table for flight in normal] + [_before_fault(flight) for flight in others[::2]]
    judged = [flight for flight in others[1::2] if flight.label.any() and not flight.label.all()]
    step = max(1, len(judged) // n)
    kept = tuple(judged[::step][:n])
    return Case(files[0].parent.name, False, pa.concat_tables([p for p in parts if p.num_rows > 500]), kept)


def _flight(file: Path) -> Judged:
    z = np.load(file)
    parts = []
    for group in sorted(name[2:] for name in z.files if name.startswith("x_")):
        t_us, x = (z[f"t_{group}"] * 1000).astype(np.int64), z[f"x_{group}"]
        for i, channel in enumerate(z[f"ch_{group}"]):
            times = pa.array(t_us, pa.timestamp("us", tz="UTC"))
            names = [pa.repeat(pa.scalar(text), len(t_us)) for text in (file.stem, f"{group}/{channel}")]
            values = pa.array(x[:, i].astype(np.float32), from_pandas=True)
            parts.append(pa.table({"entity": names[0], "sensor": names[1], "t": times, "value": values}))
    table = pa.concat_tables(parts).sort_by("t")
    return Judged(file.stem, table, (z["t_grid"] * 1000).astype(np.int64), z["y_grid"].astype(np.int64))


def _before_fault(flight: Judged) -> pa.Table:
    if not flight.label.any():
        return flight.table
    until = int(flight.t_us[int(np.argmax(flight.label))]) - BEFORE_US
    return flight.table.filter(pa.compute.less(flight.table["t"], pa.scalar(until, pa.timestamp("us", tz="UTC"))))
