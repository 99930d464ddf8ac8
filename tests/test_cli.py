"""The command line as its users meet it: exit codes, where output goes, and no traceback, ever."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
import typer
from typer.main import get_command

from stream_app.cli.alert_lines import line
from stream_app.cli.root import run
from training.cli import app

ROOT = Path(__file__).parent.parent
NOWHERE = "127.0.0.1:1"  # nobody listens there
SCRIPT = "import sys; sys.argv[0] = 'tailrace'; from training.cli import main; main()"
CONFIG = "detector: pump\nbrokers: 127.0.0.1:1\nsources: [{topic: pump-samples}]\n"


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def tailrace(*arguments: str | Path, **environment: str) -> Done:
    """Runs a command line as the console script does, in this process, which saves a second each."""
    out, err = io.StringIO(), io.StringIO()
    code: object = None
    with (
        mock.patch.object(sys, "argv", ["tailrace", *map(str, arguments)]),
        mock.patch.dict(os.environ, environment),
        mock.patch.object(logging, "lastResort", logging.lastResort),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            run(app)
        except SystemExit as end:
            code = end.code
    return Done(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())


def refused(code: int, words: str, *arguments: str | Path, **environment: str) -> None:
    """The command ends with the code, with one sentence on stderr and nothing on stdout."""
    done = tailrace(*arguments, **environment)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= (4 if code == 2 else 1), done.stderr


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "pump.yaml"
    path.write_text(CONFIG)
    return path


def commands(command: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    children = getattr(command, "commands", {})
    for name, child in children.items():
        yield from commands(child, (*path, name))
    if not children:
        yield path, command


ALL = dict(commands(get_command(app)))


def test_the_commands_are_those_of_the_design() -> None:
    wanted = ["demo", "worker", "status", "produce", "alerts", "train", "detect", "tail", "schemas"]
    nested = [("broker", v) for v in ("start", "stop", "status")] + [("topics", "create")]
    nested += [("models", verb) for verb in ("publish", "list", "show", "verify", "shadow", "promote", "rollback")]
    nested += [*(("config", v) for v in ("check", "show", "schema"))]
    nested += [("bench", name) for name in ("ingest", "latency", "quality", "robustness")]
    nested += [("dlt", verb) for verb in ("list", "show", "redrive")]
    assert {(name,) for name in wanted} | set(nested) <= set(ALL)


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_has_a_sentence_and_an_example_that_it_accepts(path: tuple[str, ...]) -> None:
    command = ALL[path]
    assert getattr(command, "help", None), "no help"
    example = (getattr(command, "epilog", None) or "").replace("\b", "").strip()
    assert example.startswith(f"Example: tailrace {' '.join(path)}")
    words = example.removeprefix("Example: tailrace ").split(" > ")[0].split()[len(path) :]
    context = command.make_context("tailrace", words, resilient_parsing=False)  # type: ignore[attr-defined]
    assert context is not None


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; import training.cli; print([m for m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    heavy = {
        "torch",
        "faust",
        "hdbscan",
        "river",
        "sklearn",
        "scipy",
        "numpy",
        "pyarrow",
        "aiokafka",
        "pydantic",
        "rich",
    }
    assert not {name for name in heavy if f"'{name}'" in loaded}


def test_arrow_alone_loads_no_pandas_and_who_imports_it_later_has_it_with_arrow() -> None:
    code = """
import sys
from stream_app.files.arrow_alone import load_arrow_alone
load_arrow_alone()
import pyarrow as pa, pyarrow.compute as pc
assert pc.fill_null(pa.array([1, None]), 0).to_pylist() == [1, 0] and pa.scalar("a").as_py() == "a"
assert "pandas" not in sys.modules
import pandas
assert pa.array(pandas.Series([1.5])).to_pylist() == [1.5] and len(pa.table({"a": [1]}).to_pandas()) == 1
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_help_and_version_are_data() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "--help"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert "Usage: tailrace" in done.stdout
    assert done.stderr == ""
    assert tailrace("--version").stdout.strip() == "0.1.0"


def test_a_wrong_option_is_a_usage_error() -> None:
    refused(2, "No such option", "detect", "--nonsense")


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("--risk", ("detect", "--input", "x", "--model", "y", "--out", "z", "--risk", "2")),
        ("--out", ("detect", "--input", "x", "--model", "y")),
        ("give one of", ("detect", "--model", "y")),
        ("--speed", ("produce", "--input", "x", "--topic", "t", "--speed", "-1")),
        ("No such command", ("bench", "nonsense")),
        ("--budget", ("train", "--input", "x", "--out", "{new}", "--budget", "soon")),
        ("--device", ("train", "--input", "x", "--out", "{new}", "--device", "abacus")),
        ("is no time", ("train", "--input", "x", "--out", "{new}", "--from", "yesterday")),
        ("is no time", ("train", "--input", "x", "--out", "{new}", "--to", "inf")),
        ("not earlier", ("train", "--input", "x", "--out", "{new}", "--from", "2026-02-01", "--to", "2026-01-01")),
        ("is no bundle", ("train", "--input", "x", "--out", "{used}")),
        ("--topic", ("topics", "create")),
    ],
)
def test_a_value_that_cannot_be_is_a_usage_error(tmp_path: Path, words: str, arguments: tuple[str, ...]) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "letters.txt").write_text("dear")
    filled = [a.format(new=tmp_path / "new", used=tmp_path / "used") for a in arguments]
    refused(2, words, *filled)


def test_a_missing_configuration_is_a_configuration_error(tmp_path: Path) -> None:
    refused(3, "No such file", "config", "check", "--config", tmp_path / "none.yaml")


def test_an_unknown_setting_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pump.yaml"
    path.write_text("sources: [{topic: a}]\nwindwos: {}\n")
    refused(3, "windwos", "config", "show", "--config", path)


@pytest.mark.parametrize(
    "command", [("detect", "--out", "{out}", "--model", "{out}", "--input"), ("train", "--out", "{out}", "--input")]
)
def test_a_missing_file_is_a_configuration_error(tmp_path: Path, command: tuple[str, ...]) -> None:
    refused(3, "", *(word.format(out=tmp_path / "new") for word in command), tmp_path / "none.parquet")


def test_an_output_that_cannot_be_written_is_a_configuration_error(tmp_path: Path) -> None:
    file, scores = tmp_path / "letters.txt", tmp_path / "scores.csv"
    file.write_text("dear")
    scores.write_text("t,score\n1,0.5\n2,0.6\n")
    refused(3, "No such file", "tail", "--input", scores, "--out", tmp_path / "none" / "judged.parquet")
    refused(3, "is no folder", "train", "--input", scores, "--out", file / "bundle")


def test_a_file_without_samples_trains_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("t,x\n")
    refused(3, "no samples", "train", "--input", tmp_path / "empty.csv", "--out", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    refused(3, "bundle", "models", "verify", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    refused(3, "manifest.json", "models", "verify", tmp_path / "empty")


@pytest.mark.parametrize(
    "arguments",
    [
        ("topics", "create", "--topic", "x", "--brokers", NOWHERE),
        ("config", "check", "--config", "{config}"),
        ("produce", "--input", "{samples}", "--topic", "t", "--brokers", NOWHERE),
        ("train", "--input", "kafka://t", "--config", "{config}", "--out", "{new}"),
    ],
)
def test_a_broker_that_does_not_answer_is_exit_code_4(tmp_path: Path, config: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "samples.csv").write_text("t,x\n1,2\n")
    places = {"config": config, "samples": tmp_path / "samples.csv", "new": tmp_path / "new"}
    refused(4, "does not answer", *(a.format(**places) for a in arguments))


def test_the_configuration_is_shown_with_its_defaults_and_without_its_secrets(config: Path) -> None:
    config.write_text(CONFIG + "security: {sasl: {username: u, password: hidden-word}, tls: {}}\n")
    done = tailrace("config", "show", "--config", config, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["windows"]["lateness"] == "5s"
    assert "hidden-word" not in done.stdout + done.stderr


def test_the_environment_overrides_the_file(config: Path) -> None:
    done = tailrace("config", "show", "--config", config, "--json", TAILRACE_BROKERS="elsewhere:9092")
    assert json.loads(done.stdout)["brokers"] == "elsewhere:9092"


def test_a_configuration_that_is_no_text_is_a_configuration_error(tmp_path: Path) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    refused(3, "is not YAML", "config", "show", "--config", path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("TAILRACE_SECURITY__SASL__PASSWORD_FILE", "nowhere: No such file"),
        ("TAILRACE_DETECTOR__NAME", "no section of settings"),
        ("TAILRACE_SOURCES__0__TOPIC", "no section of settings"),
    ],
)
def test_an_environment_that_cannot_be_used_is_named(config: Path, name: str, words: str) -> None:
    refused(3, words, "config", "show", "--config", config, **{name: "nowhere"})
    refused(3, name, "config", "show", "--config", config, **{name: "nowhere"})


def test_the_configuration_checks_without_brokers_when_asked(config: Path) -> None:
    assert tailrace("config", "check", "--config", config, "--offline").returncode == 0


def test_the_schema_of_the_configuration_is_json() -> None:
    assert "sources" in json.loads(tailrace("config", "schema").stdout)["required"]


def test_the_unexpected_is_a_sentence_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    broken = typer.Typer()

    @broken.command()
    def fail() -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(sys, "argv", ["tailrace"])
    monkeypatch.delenv("TAILRACE_DEBUG", raising=False)
    with pytest.raises(SystemExit) as ended:
        run(broken)
    assert ended.value.code == 1
    assert (
        capsys.readouterr().err == "tailrace: unexpected ZeroDivisionError: by nothing; TAILRACE_DEBUG=1 shows where\n"
    )


@pytest.mark.parametrize(
    "alert",
    [
        {},
        {"sensors": {"a": 1}},
        {"sensors": [1]},
        {"sensors": [{"sensor": "a", "contribution": None}]},
        {"sensors": [{"contribution": 0.5, "actual": "x", "expected": [1]}], "entity": None},
        {"detected_at": 1e300, "anomaly_score": "high"},
    ],
    ids=str,
)
def test_whatever_lies_on_the_topic_of_alerts_is_one_line(alert: dict[str, object]) -> None:
    assert "\n" not in line(alert)


def test_which_dead_letters_are_meant_follows_from_the_configuration_where_it_has_one_source(config: Path) -> None:
    refused(2, "--topic", "dlt", "list", "--brokers", NOWHERE)
    refused(4, "does not answer", "dlt", "list", "--config", config)
    config.write_text(CONFIG.replace("]", ", {topic: valve-samples}]"))
    refused(2, "pump-samples-dlt, valve-samples-dlt", "dlt", "list", "--config", config)
