"""The parts of one model as one folder of results, partition by partition, whichever was done first.

In: folders of parts. Out: what `tailrace detect` writes, drift.jsonl and embeddings.parquet. Remembers: nothing.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stream_app.files.results import repeating
from stream_app.replay.parts import DRIFT, EMBEDDINGS

TABLES = ("scores.parquet", "frames.parquet", "entities.parquet", EMBEDDINGS)
LINES = ("alerts.jsonl", DRIFT)
ACCOUNTING = "accounting.json"
NAMES = (*TABLES, *LINES, ACCOUNTING)


def merge(parts: Sequence[Path], out: Path) -> None:
    """Writes the results of the parts, in their order, into a folder, which is made. At least one part."""
    out.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        _tables([part / name for part in parts], out / name)
    for name in LINES:
        with (out / name).open("wb") as target:
            for part in parts:
                with (part / name).open("rb") as lines:
                    shutil.copyfileobj(lines, target)
    total: Counter[str] = Counter()
    for part in parts:
        total.update(json.loads((part / ACCOUNTING).read_text()))
    (out / ACCOUNTING).write_text(json.dumps(dict(total), indent=1) + "\n")


def _tables(files: Sequence[Path], target: Path) -> None:
    """End to end, a row group at a time."""
    schema = pq.read_schema(files[0])
    with pq.ParquetWriter(target, schema, use_dictionary=repeating(schema)) as writer:
        for table in _groups(files):
            writer.write_table(table)


def _groups(files: Sequence[Path]) -> Iterator[pa.Table]:
    for path in files:
        with pq.ParquetFile(path) as file:
            for i in range(file.num_row_groups):
                yield file.read_row_group(i)


def alerts_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Alerts by id, the last message of each, in order of their first; `opened`: whether its opening was replayed."""
    found: dict[str, dict[str, Any]] = {}
    with (folder / "alerts.jsonl").open("rb") as lines:
        for line in lines:
            message = json.loads(line)
            opened = message["status"] == "open" or found.get(message["alert_id"], {}).get("opened", False)
            found[message["alert_id"]] = message | {"opened": opened}
    return found
