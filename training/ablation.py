"""What each part of the sensors' detector is worth: training and detection with one thing changed, on labelled series.

    python -m training.ablation --data FOLDER --sets asd:2,skab:3,alfa:4 --out rows.jsonl

In: a folder of sets as `training.labelled` reads them. Out: a table on stdout; a line of JSON per row and series in the
file, to which a later run adds what is missing. Remembers: nothing. Everything passes through `train` and `detect`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import yaml

from models.scenes import F64, I64
from stream_app.files.detect import Job, detect
from stream_app.recipe import Recipe
from training.ablation_rows import ROWS
from training.detection_metrics import auc, found, vus_pr
from training.labelled import Case, Judged, cases
from training.train import Order, train

FIXED = "default, with a fixed threshold"  # the held-out quantile at the risk, in place of the rolling tail
COLUMNS = ("vus_pr", "auc", "found", "false_per_1000", "clusters", "noise", "train_s", "detect_s")


def main(arguments: list[str] | None = None) -> int:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m training.ablation", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with a folder per set")
    parser.add_argument("--sets", default="asd:2,skab:3,alfa:4", help="names, each with how many series")
    parser.add_argument("--rows", default=",".join(ROWS), help="names of rows; default: all")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines; what is there already is not done again")
    given = parser.parse_args(arguments)
    wanted = [name.strip() for name in given.rows.split(",")]
    if unknown := [name for name in wanted if name not in ROWS]:
        parser.error(f"no row is called {', '.join(unknown)}; there are {', '.join(ROWS)}")
    done = _done(given.out)
    for name, n in (part.split(":") for part in given.sets.split(",")):
        for case in cases(given.data / name, int(n)):
            for row in wanted:  # the default of all series first would tell more while it runs, but reads them often
                if (row, case.name) not in done:
                    _append(given.out, run(row, ROWS[row](case.single), case))
    print(table([json.loads(line) for line in given.out.read_text().splitlines()]))
    return 0


def run(row: str, recipe: Recipe, case: Case) -> Iterator[dict[str, Any]]:
    """A result per judged series; the default also gives those of a fixed threshold."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pyarrow.parquet.write_table(case.train, folder / "train.parquet")
        settings = {"sources": [{"topic": "ablation"}], "training": recipe.model_dump(mode="json")}
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        began = time.monotonic()
        made = train(Order(str(folder / "train.parquet"), folder / "bundle", folder / "config.yaml")).facts["report"]
        of_training = {"row": row, "case": case.name, "train_s": round(time.monotonic() - began, 1)}
        of_training |= {name: made["clusters"][name] for name in ("clusters", "noise")}
        for judged in case.judged:
            began = time.monotonic()
            score, spans = _detected(folder, judged)
            of_series = {"series": judged.name, "detect_s": round(time.monotonic() - began, 1)} | _ranked(judged, score)
            yield of_training | of_series | _met(judged, spans)
            if row == "default":
                yield of_training | of_series | {"row": FIXED} | _met(judged, _above(score, judged.t_us, made))


def table(results: list[dict[str, Any]]) -> str:
    """Means over series, a line per set and row. Of a series that was run twice the later result counts."""
    results = list({(r["row"], r["case"], r["series"]): r for r in results}.values())
    lines = ["| set | row | n | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 3) + "|"]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["case"].split("/")[0], result["row"]), []).append(result)
    order = [*list(ROWS)[:1], FIXED, *list(ROWS)[1:]]
    for name, row in sorted(groups, key=lambda key: (key[0], order.index(key[1]))):
        found = groups[name, row]
        cells = [[r[column] for r in found if r.get(column) is not None] for column in COLUMNS]
        means = [f"{np.mean(cell):.3g}" if cell else "" for cell in cells]
        lines.append(f"| {name} | {row} | {len(found)} | " + " | ".join(means) + " |")
    return "\n".join(lines)


def _detected(folder: Path, judged: Judged) -> tuple[F64, list[tuple[int, int]]]:
    """The score at each labelled time, that of the frame which holds it or the last before; and the alerts' spans."""
    file, out = folder / "judged.parquet", folder / "out" / judged.name
    pyarrow.parquet.write_table(judged.table, file)
    detect(Job(file, folder / "bundle", out))
    frames = pyarrow.parquet.read_table(out / "frames.parquet")
    start = frames["frame_start_time"].cast(pa.timestamp("us", tz="UTC")).cast("int64").to_numpy()
    score = frames["anomaly_score"].to_numpy().astype(np.float64)
    at = np.searchsorted(start, judged.t_us, side="right") - 1
    last: dict[str, dict[str, Any]] = {}
    for line in (out / "alerts.jsonl").read_text().splitlines():
        alert = json.loads(line)
        last[alert["alert_id"]] = alert
    kept = [alert for alert in last.values() if alert["status"] != "retracted"]
    return np.where(at >= 0, score[np.maximum(at, 0)], score.min()), [_span(alert) for alert in kept]


def _span(alert: dict[str, Any]) -> tuple[int, int]:
    start, end = (np.datetime64(alert[key].rstrip("Z"), "us") for key in ("data_start_time", "data_end_time"))
    return int(start.astype(np.int64)), int(end.astype(np.int64))


def _ranked(judged: Judged, score: F64) -> dict[str, float]:
    ranked = {"auc": auc(judged.label, score)}
    ends_with_event = bool(judged.label[-1])
    return ranked if ends_with_event else ranked | {"vus_pr": vus_pr(judged.label, score)}


def _met(judged: Judged, spans: list[tuple[int, int]]) -> dict[str, float]:
    met = found(judged.label, judged.t_us, spans)
    return {"found": met.found, "false_per_1000": met.false_per_1000}


def _above(score: F64, t_us: I64, report: dict[str, Any]) -> list[tuple[int, int]]:
    """Runs of scores above the held-out quantile at the bundle's risk."""
    held = np.array(report["held_out_scores"])
    limit = np.interp(1 - report["risk"], np.linspace(0, 1, len(held)), held)
    edge = np.flatnonzero(np.diff(np.concatenate([[0], (score > limit).astype(int), [0]])))
    return [(int(t_us[a]), int(t_us[b - 1])) for a, b in zip(edge[::2], edge[1::2], strict=True)]


def _done(out: Path) -> set[tuple[str, str]]:
    if not out.exists():
        return set()
    return {(result["row"], result["case"]) for result in map(json.loads, out.read_text().splitlines())}


def _append(out: Path, results: Iterator[dict[str, Any]]) -> None:
    made = [json.dumps(result) + "\n" for result in results]  # all series of a case, or none
    with out.open("a") as file:
        file.writelines(made)
    sys.stderr.writelines(made)


if __name__ == "__main__":
    sys.exit(main())
