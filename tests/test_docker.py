"""The image and the compose file, as far as they can be checked without an engine: what they say must be so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from stream_app.config import Config, Worker, load
from training.cli import app

ROOT = Path(__file__).parent.parent
LINES = (ROOT / "docker" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if service["image"] == "tailrace"}


def instructions(word: str) -> list[str]:
    return [line.split(maxsplit=1)[1] for line in LINES if line.startswith(word + " ")]


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    kept = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"}
    for copy in instructions("COPY"):
        sources = copy.split()[:-1]
        if not sources[0].startswith("--from"):
            assert all((ROOT / source).exists() and source in kept for source in sources)


def test_the_image_runs_without_root() -> None:
    assert instructions("USER")[-1] != "0"
    assert instructions("USER")[-1] != "root"


def test_the_base_image_is_of_a_stated_python_that_the_project_supports() -> None:
    for image in instructions("FROM"):
        version = re.match(r"python:3\.(\d+)-slim", image)
        assert version is not None
        assert 11 <= int(version[1]) <= 13


def test_the_health_check_asks_livez_where_the_worker_answers() -> None:
    (check,) = instructions("HEALTHCHECK")
    assert f"http://{Worker().http_host}:{Worker().http_port}/livez" in check


@pytest.mark.parametrize("name", OURS)
def test_every_command_of_the_compose_file_is_one_that_tailrace_accepts(name: str) -> None:
    command, words = get_command(app), list(map(str, OURS[name]["command"]))
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(name, words)


@pytest.mark.parametrize("name", OURS)
def test_the_services_write_nothing_but_their_data(name: str) -> None:
    service = OURS[name]
    assert service["read_only"]
    assert service["tmpfs"] == ["/tmp"]
    assert {volume.split(":")[1] for volume in service["volumes"]} == {"/data", "/etc/tailrace/detector.yaml"}


def test_the_environment_of_the_services_reaches_a_setting() -> None:
    for service in OURS.values():
        for name in service["environment"]:
            assert name.removeprefix("TAILRACE_").lower().split("__")[0] in Config.model_fields


def test_the_services_speak_of_one_topic_one_bundle_one_broker() -> None:
    config = load(ROOT / "docker" / "detector.yaml")
    assert config.sources[0].topic in OURS["producer"]["command"]
    assert config.model in OURS["train"]["command"]
    kafka = COMPOSE["services"]["kafka"]["environment"]
    assert OURS["worker"]["environment"]["TAILRACE_BROKERS"] in kafka["KAFKA_ADVERTISED_LISTENERS"]


def test_a_service_waits_for_what_it_needs() -> None:
    for service in COMPOSE["services"].values():
        for other, condition in service.get("depends_on", {}).items():
            wanted = condition["condition"]
            assert other in COMPOSE["services"]
            if wanted == "service_healthy":
                assert "test" in COMPOSE["services"][other]["healthcheck"]


def test_the_worker_is_given_more_time_to_drain_than_it_takes() -> None:
    seconds = int(OURS["worker"]["stop_grace_period"].removesuffix("s"))
    assert seconds > Worker().grace / 1e6


CRON: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "refit.cronjob.yaml").read_text())


def test_the_scheduled_refit_is_a_command_that_tailrace_accepts_and_has_what_it_mounts() -> None:
    assert (CRON["apiVersion"], CRON["kind"]) == ("batch/v1", "CronJob")
    assert len(CRON["spec"]["schedule"].split()) == 5
    pod = CRON["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    command, words = get_command(app), list(container["args"])
    context = command.commands[words.pop(0)].make_context("refit", words)  # type: ignore[attr-defined]
    assert context.params["resume"], "a pod that was killed is followed by one that goes on"
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    mounts = tuple(m["mountPath"] for m in container["volumeMounts"])
    paths = [word for word in (*container["args"], *(e["value"] for e in container["env"])) if word.startswith("/")]
    assert all(path.startswith(mounts) for path in paths)
    assert pod["restartPolicy"] == "Never", "podFailurePolicy asks for it"
    settings = {e["name"].removeprefix("TAILRACE_").lower().split("__")[0] for e in container["env"]}
    assert settings <= set(Config.model_fields)
