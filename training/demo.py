"""`tailrace demo`: everything, on an embedded broker: data, training, worker, faults, alerts, and the books.

In: nothing, or with --real a measured series. Out: the alerts as they arrive, and what they are worth: faults injected
and found, false alarms promised and seen, the accounting and its sum. Remembers: nothing.

Every step is what a user does by hand, and its command is printed beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from stream_app.brokers.broker import start_broker, stop_broker
from stream_app.brokers.kafka.properties import free_port
from stream_app.cli.alert_lines import alerts, line
from stream_app.cli.output import logs_to_stderr, note, rows, say
from stream_app.config import Config, load
from stream_app.errors import CheckFailed, TailraceError
from stream_app.files.produce import Job, produce
from stream_app.live.detector_topics import create
from stream_app.live.status import status
from stream_app.live.topic_batches import n_records
from stream_app.opening import configured_detector
from training.demo_stories import Story, fleet_stories, real_story
from training.demo_verdict import Books, Verdict, judge
from training.train import Order, train

Kind = Literal["embedded", "kafka"]
PARTITIONS = 2
_POLL_S = 0.5
_WORKER_S = 150  # a worker that takes longer has come to a stop


def run_demo(real: bool = False, folder: Path | None = None) -> None:
    """Runs it. Raises CheckFailed if the accounting does not add up, or a worker failed."""
    logs_to_stderr()
    with kept(folder) as home:
        stories = [real_story(home)] if real else fleet_stories(home)
        with broker(home) as brokers:
            for story in stories:
                _prepare(story, brokers, home)
            seen = _watch(stories, home)
            verdicts = [_conclude(story, seen[story.name], home) for story in stories]
    note(_where(folder))
    if not all(verdict.adds_up for verdict in verdicts):
        raise CheckFailed("the accounting does not add up: samples were lost or counted twice")


def _where(folder: Path | None) -> str:
    if folder is None:
        return "\nNothing was kept; `tailrace demo --keep FOLDER` leaves data, bundles with report.html, and logs."
    return f"\nKept in {folder}: data, bundles with report.html, and logs."


@contextlib.contextmanager
def kept(folder: Path | None) -> Iterator[Path]:
    """The folder to keep, or one that goes away."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="tailrace-demo-") as home:
        yield Path(home)


@contextlib.contextmanager
def broker(home: Path, kind: Kind = "embedded") -> Iterator[str]:
    """A broker of its own, until the end; gives where it answers."""
    directory = home / "broker"
    step(f"a broker: {kind}", "tailrace broker start" + (" --kafka" if kind == "kafka" else ""))
    started = start_broker(kind, port=free_port(), directory=directory)
    try:
        yield started.bootstrap
    finally:
        stop_broker(erase=True, directory=directory)


def _prepare(story: Story, brokers: str, home: Path) -> None:
    """Trains a detector, and puts what it shall judge on a topic."""
    config = _configuration(story, brokers, home)
    step(f"{story.name}: train on the normal part", f"tailrace train --input {story.train.name} --out {story.name}")
    began = time.monotonic()
    train(Order(str(story.train), home / story.name, config=config, budget=story.budget), indented)
    note(f"   {time.monotonic() - began:.1f} s")
    topic = story.topic
    step(f"{story.name}: what happens next", f"tailrace produce --input {story.live.name} --topic {topic}")
    settings = load(config)
    create(settings, PARTITIONS, ())
    sent = produce(Job(story.live, topic, form="chunks", end=True), settings)
    note(f"   {sent['samples']:,} samples in {sent['records']:,} records")


def _configuration(story: Story, brokers: str, home: Path) -> Path:
    path = home / f"{story.name}.yaml"
    settings = {
        "detector": story.name,
        "brokers": brokers,
        "sources": [{"topic": story.topic}],
        "windows": story.windows,
        "alarms": story.alarms,
        "model": str(home / story.name),
        "topics": {"alerts": f"{story.name}-alerts", "scores": f"{story.name}-scores"},
        "worker": {"http_port": None},
    }
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


# --- the workers, and what they say -----------------------------------------------------------------------------------


def _watch(stories: Sequence[Story], home: Path) -> dict[str, list[dict[str, Any]]]:
    """Runs a worker per detector to the end of its topic, and prints the alerts as they come."""
    for story in stories:
        step(f"{story.name}: a worker", f"tailrace worker --config {story.name}.yaml --until-end")
    with contextlib.ExitStack() as stack:
        workers = {story.name: _worker(story, home, stack) for story in stories}
        seen: dict[str, list[dict[str, Any]]] = {story.name: [] for story in stories}
        asyncio.run(_follow(stories, workers, home, seen))
    for name, worker in workers.items():
        if worker.returncode:
            raise TailraceError(
                f"the worker of {name} ended with {worker.returncode}: {last_line(home / f'{name}.log')}"
            )
    return seen


def _worker(story: Story, home: Path, stack: contextlib.ExitStack) -> subprocess.Popen[bytes]:
    log = stack.enter_context((home / f"{story.name}.log").open("wb"))
    config = home / f"{story.name}.yaml"
    code = "from training.cli import main; main()"
    command = [sys.executable, "-c", code, "worker", "--config", str(config), "--until-end"]
    worker = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    stack.callback(ended, worker)
    return worker


def ended(worker: subprocess.Popen[bytes]) -> None:
    """Asks a process to end, and waits for it."""
    if worker.poll() is None:
        worker.terminate()
    worker.wait(timeout=30)


async def _follow(
    stories: Sequence[Story],
    workers: dict[str, subprocess.Popen[bytes]],
    home: Path,
    seen: dict[str, list[dict[str, Any]]],
) -> None:
    """Prints the alerts of all detectors until their workers have ended and nothing more is there."""
    async with asyncio.TaskGroup() as group:
        tails = [group.create_task(_print(load(home / f"{story.name}.yaml"), seen[story.name])) for story in stories]
        give_up = time.monotonic() + _WORKER_S
        while any(worker.poll() is None for worker in workers.values()) and time.monotonic() < give_up:
            await asyncio.sleep(_POLL_S)
        await asyncio.sleep(2 * _POLL_S)  # what the workers sent last
        for tail in tails:
            tail.cancel()


async def _print(config: Config, seen: list[dict[str, Any]]) -> None:
    async for alert in alerts(config, config.topics.alerts, follow=True):
        seen.append(alert)
        if alert.get("status") == "open":
            say(f"ALERT  {line(alert)}")


def last_line(log: Path) -> str:
    """What a process said in the end."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else "it said nothing"


# --- what it is worth -------------------------------------------------------------------------------------------------


def _conclude(story: Story, seen: list[dict[str, Any]], home: Path) -> Verdict:
    config = load(home / f"{story.name}.yaml")
    assert config.topics.scores is not None
    books = Books(status(config)["partitions"], asyncio.run(n_records(config, config.topics.scores)))
    detector = configured_detector(config)
    assert detector is not None
    verdict = judge(story.faults, seen, books, config, detector)
    say(f"\n{story.name}")
    rows(verdict.faults, verdict.faults, as_json=False)
    if story.faults:
        found = sum(fault["found"] == "yes" for fault in verdict.faults)
        say(f"faults: {len(verdict.faults)} injected, {found} found")
    say(f"false alarms: {verdict.promised:.2g} promised for this time and fleet, {verdict.false_alarms} seen")
    parts = dict(verdict.accounting)
    read = parts.pop("samples_read")
    terms = " + ".join(f"{n:,} {name.replace('_', '-')}" for name, n in parts.items())
    say(f"accounting: {read:,} samples read = {terms}" + ("" if verdict.adds_up else "   WRONG"))
    return verdict


def indented(line: str) -> None:
    """A line that belongs to the step above."""
    note(f"   {line}")


def step(what: str, command: str) -> None:
    """What happens next, and how a user does it."""
    note(f"== {what}\n   $ {command}")
