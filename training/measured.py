"""A labelled case through the product: trained by `train`, scored by `detect`, each in its own folder of files.

In: tables. Out: the score at each labelled time. Remembers: nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from models.scenes import F64
from stream_app.files.detect import Job, detect
from training.detection_metrics import auc, vus_pr
from training.labelled import Judged
from training.train import Order, train

NEAR = 100  # times from an anomaly at which the highest score still counts as its finding


def trained(normal: pa.Table, folder: Path) -> Path:
    """A bundle in `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(normal, folder / "train.parquet")
    train(Order(str(folder / "train.parquet"), folder / "bundle"))
    return folder / "bundle"


def scored(bundle: Path, judged: Judged, folder: Path) -> F64:
    """The score at each labelled time: of the frame that holds it, or of the last before it. [n]"""
    folder.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(judged.table, folder / "judged.parquet")
    detect(Job(folder / "judged.parquet", bundle, folder))
    frames = pyarrow.parquet.read_table(folder / "frames.parquet").sort_by("frame_start_time")
    start = frames["frame_start_time"].cast(pa.int64()).to_numpy()
    score = frames["anomaly_score"].to_numpy().astype(np.float64)
    at = np.searchsorted(start, judged.t_us, side="right") - 1
    found: F64 = np.where(at >= 0, score[np.maximum(at, 0)], score.min())
    return found


def measures(judged: Judged, score: F64) -> dict[str, float]:
    """VUS-PR, AUC, and top1: whether the highest score lies in an anomaly or within NEAR times of one."""
    top = int(np.argmax(score))
    near = bool(judged.label[max(0, top - NEAR) : top + NEAR + 1].any())
    return {"vus_pr": vus_pr(judged.label, score), "auc": auc(judged.label, score), "top1": float(near)}
