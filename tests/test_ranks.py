"""Training in several processes, as torchrun starts them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from stream_app.errors import UsageError
from tests.rank_program import digest
from training.ranks import ALONE, joined, local_device

HERE = Path(__file__).parent


def start(rank: int, port: int) -> subprocess.Popen[str]:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank)}
    own = place | {"RANK": str(rank), "WORLD_SIZE": "2", "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, str(HERE / "rank_program.py")]
    return subprocess.Popen(command, env=os.environ | own, stdout=subprocess.PIPE, text=True)


def test_two_processes_hold_the_same_weights_and_not_those_of_one_alone() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    programs = [start(0, port), start(1, port)]
    first, second = (json.loads(program.communicate(timeout=120)[0]) for program in programs)
    assert first == second
    assert first["world"] == 2
    assert first["mean"] == [0.5, 5.0]
    assert first["weights"] != digest(ALONE)


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu") as ranks:
        assert ranks.first
        assert ranks.world == 1
        assert ranks.seed(7) == [7]


def test_a_process_without_a_gpu_of_its_own_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "99")
    assert local_device("cpu") == "cpu"
    with pytest.raises(UsageError, match="no GPU of its own"):
        local_device("cuda")
