"""`tailrace bench quality`: Tailrace beside classical detectors on a user's own labelled file.

In: a labelled file. Out: the benchmark's figures: measures of each detector, means over the file's entities, and how
many times theirs ours is. Remembers: nothing. All are trained on the same rows and judged at the same times.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from models.sensors import SensorDetector
from stream_app.opening import open_bundle
from training.dataset import Dataset
from training.labelled import Case
from training.labelled_file import labelled_case
from training.measured import measures, scored, trained
from training.peer_windows import fit_peers
from training.reading import Period, read

OURS = "Tailrace"


def run(path: Path, train: Path | None = None) -> dict[str, Any]:
    """Measures. Raises ConfigurationError where the file can't be used."""
    return run_case(labelled_case(path, train))


def run_case(case: Case) -> dict[str, Any]:
    """Measures one case."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = trained(case.train, folder)
        detector = open_bundle(bundle)
        assert isinstance(detector, SensorDetector)
        step_us, widths = detector.fitted.grid.step_us, _widths(detector)
        peers = fit_peers(_dataset(folder / "train.parquet", detector), step_us, widths)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in (OURS, *(peer.name for peer in peers))}
        for judged in case.judged:
            found[OURS].append(measures(judged, scored(bundle, judged, folder / "out")))
            data = _dataset(folder / "out" / "judged.parquet", detector)
            for peer in peers:
                found[peer.name].append(measures(judged, peer.scores(data, step_us, judged.t_us)))
    means = {name: {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} for name, rows in found.items()}
    ours = means[OURS]["vus_pr"]
    ratios = {name: round(ours / max(row["vus_pr"], 1e-9), 2) for name, row in means.items() if name != OURS}
    return {"name": "quality", "value": round(ours, 4), "unit": "VUS-PR", "ratios": ratios, "runs": means}


def table(found: dict[str, Any]) -> list[dict[str, Any]]:
    """A line per detector."""
    return [{"detector": name} | {key: round(v, 4) for key, v in row.items()} for name, row in found["runs"].items()]


def _widths(detector: SensorDetector) -> tuple[int, ...]:
    """Of the windows: those that suit the data, as training found them; and for several sensors single moments."""
    parts = detector.fitted.parts.values()
    found = {part.shape.frames for part in parts if hasattr(part, "shape")}
    return tuple(sorted(found | ({1} if len(detector.sensors) > 1 else set())))


def _dataset(file: Path, detector: SensorDetector) -> Dataset:
    """The file's samples of the sensors that the detector knows."""
    data = read(str(file), Period(), None).data.with_sensors(detector.sensors)
    return data.at(data.sensor < len(detector.sensors))
