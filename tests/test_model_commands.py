"""`tailrace models` as its users meet it: what it prints, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from models_rig import bundle

from stream_app.brokers.kafka.cluster import KafkaCluster
from tests.test_cli import NOWHERE, refused, tailrace


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    made = tailrace("models", "keygen", "--out", tmp_path / "key.pem")
    assert (made.returncode, len(made.stdout.strip())) == (0, 44)
    assert (tmp_path / "key.pem").stat().st_mode & 0o077 == 0
    refused(3, "never overwritten", "models", "keygen", "--out", tmp_path / "key.pem")


@pytest.mark.parametrize(
    ("code", "words", "arguments"),
    [
        (2, "--force needs --reason", ("promote", "pump@1", "--force", "--brokers", NOWHERE)),
        (2, "no version; write DETECTOR@7", ("promote", "pump@last", "--brokers", NOWHERE)),
        (2, "give --config, or --detector", ("publish", "nowhere", "--brokers", NOWHERE)),
        (3, "nobody would trust", ("publish", "nowhere", "--detector", "pump", "--brokers", NOWHERE)),
        (3, "there is no bundle", ("verify", "nowhere")),
        (3, "neither a folder nor", ("show", "pump@yesterday")),
        (4, "does not answer", ("list", "--brokers", NOWHERE)),
        (4, "does not answer", ("verify", "pump@live", "--brokers", NOWHERE)),
        (4, "does not answer", ("promote", "pump@1", "--brokers", NOWHERE)),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(code: int, words: str, arguments: tuple[str, ...]) -> None:
    refused(code, words, "models", *arguments)


@pytest.mark.parametrize(
    ("key", "words"),
    [("nowhere.pem", "keygen makes a key"), ("pump.yaml", "holds no private key")],
)
def test_a_key_that_is_none_is_refused_by_name(tmp_path: Path, key: str, words: str) -> None:
    (tmp_path / "pump.yaml").write_text(f"sources: [{{topic: t}}]\nbrokers: {NOWHERE}\n")
    options = ("--config", tmp_path / "pump.yaml", "--key", tmp_path / key)
    refused(3, words, "models", "publish", "nowhere", *options)


@pytest.mark.kafka
def test_a_version_from_its_publication_to_its_rollback(
    kafka: KafkaCluster, unique_name: Callable[[str], str], tmp_path: Path
) -> None:
    public = tailrace("models", "keygen", "--out", tmp_path / "key.pem").stdout.strip()
    registry = {"trusted_keys": [public], "signing_key": str(tmp_path / "key.pem"), "cache": str(tmp_path / "cache")}
    data = {"detector": "pump", "brokers": kafka.bootstrap, "sources": [{"topic": unique_name("s")}]}
    config = tmp_path / "pump.yaml"
    config.write_text(yaml.safe_dump({**data, "registry": registry, "topics": {"models": unique_name("m")}}))

    def run(*arguments: str | Path) -> Any:
        done = tailrace("models", *arguments, "--config", config, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    refused(3, "does not exist", "models", "list", "--config", config)
    assert [run("publish", bundle(tmp_path, n))["version"] for n in (0, 1)] == [1, 2]
    refused(5, "no gate has looked at it", "models", "promote", "pump@1", "--config", config)
    refused(3, "no version of pump is live", "models", "show", "pump@live", "--config", config)
    assert run("promote", "pump@1", "--force", "--reason", "the first")["state"] == "live"
    assert run("shadow", "pump")["version"] == 2
    assert run("promote", "pump@2", "--force", "--reason", "better")["version"] == 2
    assert run("rollback", "pump", "--reason", "noisy")["version"] == 1
    assert [(p["version"], p["state"]) for p in run("list")] == [(1, "live"), (2, "retired")]
    shown = run("show", "pump@live")
    assert [step["reason"] for step in shown["history"]][1:] == ["forced: the first", "pump@2 went live", "noisy"]
    assert run("verify", "pump@live")["digest"] == shown["digest"]
    refused(3, "there are 1 live, 2 retired", "models", "show", "pump@7", "--config", config)
    refused(3, "no version of fan was published", "models", "promote", "fan", "--config", config)
