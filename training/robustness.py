"""What is left of the quality when data are bad: `tailrace bench robustness`, or over sets of labelled series

    python -m training.robustness --data FOLDER --sets asd:6,alfa:11 --out rows.jsonl

In: labelled cases. Out: a table; a line of JSON per case and row in the file, to which a later run adds what is
missing. Remembers: nothing. Everything passes through `train` and `detect`. The measure is VUS-PR; AUC where the
series end with their anomaly, since borders lie beyond the end there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet

from training.dataset import Dataset
from training.disturbances import constant, contaminated, gone, thinned, to_table
from training.labelled import Case, Judged, cases
from training.measured import measures, scored, trained
from training.reading import Period, read

FLOOR = 0.9  # of the clean figure
ANOMALOUS, MISSING = 0.05, 0.3
SENSORS_TRIED = 3  # evenly chosen; one after the other is lost
ROWS = ("clean", "5 % of training anomalous", "30 % of samples missing", "a sensor gone", "a sensor constant")


def main(arguments: list[str] | None = None) -> int:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m training.robustness", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with a folder per set")
    parser.add_argument("--sets", default="asd:6,alfa:11", help="names, each with how many series")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines; what is there already is not done again")
    given = parser.parse_args(arguments)
    done = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []
    for name, n in (part.split(":") for part in given.sets.split(",")):
        for case in cases(given.data / name, int(n)):
            if case.name in {row["case"] for row in done}:
                continue
            for row in run_case(case):
                done.append({"case": case.name} | row)
                with given.out.open("a") as file:
                    file.write(json.dumps(done[-1]) + "\n")
                print(json.dumps(done[-1]), file=sys.stderr, flush=True)
    for line in summary(done):
        print(" | ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in line.values()))
    return 0


def run_case(case: Case, seed: int = 0) -> Iterator[dict[str, Any]]:
    """A result per row and series."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clean = trained(case.train, folder / "clean")
        normal = read(str(folder / "clean" / "train.parquet"), Period(), None).data
        series = [(judged, _data(judged, folder)) for judged in case.judged]
        spoiled = contaminated(normal, series, ANOMALOUS, rng)
        foul = trained(to_table(spoiled), folder / "foul")
        sensors = np.unique(np.linspace(0, len(normal.sensors) - 1, SENSORS_TRIED + 2).astype(int)[1:-1]).tolist()
        lost = [normal.sensors[i] for i in sensors] if len(normal.sensors) > 1 else []
        disturbed: dict[str, list[Callable[[Dataset], Dataset]]] = {
            ROWS[0]: [lambda data: data],
            ROWS[2]: [lambda data: thinned(data, MISSING, rng)],
            ROWS[3]: [lambda data, s=s: gone(data, s) for s in lost],  # type: ignore[misc]
            ROWS[4]: [lambda data, s=s: constant(data, s, normal) for s in lost],  # type: ignore[misc]
        }
        for judged, data in series:
            about = {"series": judged.name, "to_the_end": bool(judged.label[-1])}
            yield about | {"row": ROWS[1]} | _measured(foul, judged, folder)
            for row, ways in disturbed.items():
                found = [_measured(clean, replace(judged, table=to_table(way(data))), folder) for way in ways]
                if found:
                    means = {key: float(np.mean([each[key] for each in found])) for key in found[0]}
                    yield about | {"row": row} | means


def summary(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line per set and row: the mean over series, and its share of the clean one's."""
    lines = []
    for name in sorted({result["case"].split("/")[0] for result in results}):
        own = [result for result in results if result["case"].split("/")[0] == name]
        measure = "auc" if any(result["to_the_end"] for result in own) else "vus_pr"
        means = {row: [r[measure] for r in own if r["row"] == row] for row in ROWS}
        for row, figures in means.items():
            if figures:
                share = float(np.mean(figures) / np.mean(means[ROWS[0]]))
                lines.append(
                    {"set": name, "data": row, "measure": measure, "figure": float(np.mean(figures)), "share": share,
                     "holds": "yes" if share >= FLOOR else "NO"}
                )  # fmt: skip
    return lines


def _data(judged: Judged, folder: Path) -> Dataset:
    file = folder / "series.parquet"
    pyarrow.parquet.write_table(judged.table, file)
    return read(str(file), Period(), None).data


def _measured(bundle: Path, judged: Judged, folder: Path) -> dict[str, float]:
    return measures(judged, scored(bundle, judged, folder / "out"))


if __name__ == "__main__":
    sys.exit(main())
