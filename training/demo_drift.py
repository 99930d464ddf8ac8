"""`tailrace demo --drift`: the world changes, and the model with it, without a hand.

In: nothing. Out: what happens, as it happens: a fleet runs, all its pumps change (vibration with twice the variance,
flow on another level), drift is noticed, a refit follows, its candidate passes the gate, goes live while the worker
runs, and the alarm rate is within the contract. Remembers: nothing.

Every step is what a user does by hand, and its command is printed beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import yaml

from stream_app import fleet
from stream_app.cli.output import logs_to_stderr, note, rows, say
from stream_app.config import Config, Gates, load
from stream_app.errors import CheckFailed, TailraceError
from stream_app.files.produce import Job, produce
from stream_app.judging import risk_of
from stream_app.live.detector_topics import create
from stream_app.live.topic_batches import batches, consumer_of, partitions_of
from stream_app.model_store import verbs
from stream_app.model_store.signing import make_key
from stream_app.model_store.transitions import Wish
from stream_app.opening import open_bundle
from training.demo import PARTITIONS, Kind, broker, ended, indented, kept, last_line, step
from training.demo_phases import Phase, phases
from training.train import Order, train

SEED, PUMPS = 20260102, 3
SPEED = 60.0  # event time runs so much faster than ours
TRAIN_S = 1200.0
BEFORE_S = 2700.0  # drift of one entity is measured against its first 24 blocks of 32 windows: 33 minutes
AFTER_S = 18_000.0  # more than the rest takes at this speed
# 40 minutes of the new normal, as much as a fresh fit needs; 10 in shadow
PATIENCE = ("--settle", "40s", "--at-most", "1m", "--promote-after", "10s", "--once")
PATIENCE_S = AFTER_S / SPEED  # then there are no more data
LAST_S = 30.0  # with the new bundle, to see what it does
FILES = ("pumps-normal.parquet", "pumps-live.parquet")


@dataclass(frozen=True)
class Stage:
    """Where the demo plays."""

    home: Path
    config_file: Path
    changed_us: int

    @property
    def config(self) -> Config:
        return load(self.config_file)


def run_drift_demo(kind: Kind, folder: Path | None) -> None:
    """Runs it. Raises CheckFailed if the loop did not close, or the contract is not kept after it."""
    logs_to_stderr()
    began = time.monotonic()
    with kept(folder) as home, broker(home, kind) as brokers, contextlib.ExitStack() as stack:
        stage = _prepared(home, brokers)
        worker = _process(stage, stack, "worker", "--config", "pumps.yaml")
        refit = _process(stage, stack, "refit", "--config", "pumps.yaml", "--on-drift", *PATIENCE)
        produced = f"tailrace produce --input {FILES[1]} --topic pump-samples --speed {SPEED:g}"
        step(f"time passes, {SPEED:g} times as fast", produced)
        _produce(stage)
        _until_promoted(stage, worker, refit)
        time.sleep(LAST_S)
        shown = _shown(stage)
    say("")
    rows([phase.row() for phase in shown], [phase.row() for phase in shown], as_json=False)
    say(f"after {time.monotonic() - began:.0f} s")
    _check(shown[2], Gates().alarm_ratio or 1.0)


def _prepared(home: Path, brokers: str) -> Stage:
    """A detector, trained and live; its topics; what it will meet."""
    before = fleet.Fleet(PUMPS, TRAIN_S)
    after = fleet.Fleet(PUMPS, BEFORE_S + AFTER_S, before.start_us + int(TRAIN_S * 1e6))
    changed_us = after.start_us + int(BEFORE_S * 1e6)
    fleet.write(fleet.pumps(before, (), np.random.default_rng(SEED)), home / FILES[0])
    later = threading.Thread(target=_write_later, args=(home, after, changed_us))
    later.start()
    stage = Stage(home, _configured(home, brokers), changed_us)
    step("train on the normal part", f"tailrace train --input {FILES[0]} --out first")
    train(Order(str(home / FILES[0]), home / "first", config=stage.config_file, budget="40s"), indented)
    create(stage.config, PARTITIONS, [source.topic for source in stage.config.sources])
    step("the first version goes live", "tailrace models publish first; tailrace models promote pumps --force ...")
    asyncio.run(_first(stage.config, home / "first"))
    create(stage.config, PARTITIONS, ())
    later.join()
    return stage


def _write_later(home: Path, after: fleet.Fleet, changed_us: int) -> None:
    """What the pumps will do; made while the detector is trained."""
    regime = fleet.new_regime(after, changed_us)
    fleet.write(fleet.pumps(after, regime, np.random.default_rng(SEED + 1)), home / FILES[1])


async def _first(config: Config, bundle: Path) -> None:
    made = await verbs.publish(config, verbs.Publication("pumps", bundle, reason="the first"))
    live = await verbs.promote(
        config, Wish("pumps", made.version, forced="the first version: nothing to compare it with")
    )
    indented(f"{live.name} is {live.state}, {live.digest[:20]}")


def _configured(home: Path, brokers: str) -> Path:
    step("a key, so that workers know whose versions to trust", "tailrace models keygen --out publisher.pem")
    public = make_key(home / "publisher.pem")
    settings = {
        "detector": "pumps",
        "brokers": brokers,
        "sources": [{"topic": "pump-samples"}],
        "alarms": {"at_most": 24, "per": "day"},
        "model": "pumps@live",
        "registry": {
            "trusted_keys": [public],
            "signing_key": str(home / "publisher.pem"),
            "cache": str(home / "models"),
        },
        "worker": {"http_port": None},
    }
    path = home / "pumps.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def _process(stage: Stage, stack: contextlib.ExitStack, name: str, *options: str) -> subprocess.Popen[bytes]:
    """A command of ours in a process of its own, its words in a file."""
    step(f"a process: {name}", f"tailrace {name} {' '.join(options)}")
    log = stack.enter_context((stage.home / f"{name}.log").open("wb"))
    code = "from training.cli import main; main()"
    command = [sys.executable, "-c", code, name, *options]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=stage.home)
    stack.callback(ended, process)
    return process


def _produce(stage: Stage) -> None:
    """Goes on until the program ends."""
    job = Job(stage.home / FILES[1], "pump-samples", "chunks", SPEED)
    threading.Thread(target=_quietly, args=(lambda: produce(job, stage.config),), daemon=True).start()


def _quietly(work: Callable[[], Any]) -> None:
    with contextlib.suppress(TailraceError, RuntimeError):  # the broker ends before it does
        work()


def _until_promoted(stage: Stage, worker: subprocess.Popen[bytes], refit: subprocess.Popen[bytes]) -> None:
    """Shows what the refit says, until it has done its work."""
    words, give_up = _new_lines(stage.home / "refit.log"), time.monotonic() + PATIENCE_S
    while refit.poll() is None:
        for line in next(words):
            indented(line)
        if worker.poll() is not None:
            raise TailraceError(f"the worker ended with {worker.returncode}: {last_line(stage.home / 'worker.log')}")
        if time.monotonic() > give_up:
            raise CheckFailed(f"nothing was promoted within {PATIENCE_S:.0f} s: {last_line(stage.home / 'refit.log')}")
        time.sleep(0.5)
    for line in next(words):
        indented(line)
    if refit.returncode:
        raise CheckFailed(f"the refit ended with {refit.returncode}: {last_line(stage.home / 'refit.log')}")


def _new_lines(log: Path) -> Iterator[list[str]]:
    """What was written since the last look."""
    at = 0
    while True:
        text = log.read_text(errors="replace")
        end = text.rfind("\n") + 1
        yield text[at:end].splitlines()
        at = end


def _shown(stage: Stage) -> tuple[Phase, Phase, Phase]:
    config = stage.config
    assert config.topics.scores is not None
    scores, alerts = (asyncio.run(_all(config, topic)) for topic in (config.topics.scores, config.topics.alerts))
    return phases(scores, alerts, stage.changed_us, risk_of(config, open_bundle(stage.home / "first")))


async def _all(config: Config, topic: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with consumer_of(config) as consumer:
        async for batch in batches(consumer, partitions_of(config, topic)):
            found += [orjson.loads(value) for value in batch.values if value]
    return found


def _check(last: Phase, ratio: float) -> None:
    if not last.within_contract(ratio):
        raise CheckFailed(f"the contract is not kept: {last.episodes} alerts where {last.promised:.2g} are promised")
    note("the alarm rate is within the contract")
