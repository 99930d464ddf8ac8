"""`tailrace models`: versions of detectors on the models topic, and bundles in folders.

In: arguments. Out: as `stream_app.cli.root` says. Remembers: nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream_app.cli.output import logs_to_stderr, note, rows, say
from stream_app.errors import UsageError

if TYPE_CHECKING:
    from stream_app.config import Config
    from stream_app.model_store.pointers import Pointer

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
MaybeConfig = Annotated[Path | None, typer.Option("--config", help="The detector's YAML file: brokers, keys, store.")]
Brokers = Annotated[str | None, typer.Option(help="host:port[,...]; default: the configuration, TAILRACE_BROKERS.")]
Named = Annotated[str, typer.Argument(help="A folder, or DETECTOR@live, @shadow, @VERSION.", metavar="MODEL")]
Version = Annotated[str, typer.Argument(help="DETECTOR@VERSION; DETECTOR alone is its latest.", metavar="MODEL")]
Reason = Annotated[str | None, typer.Option(help="For the record.")]

models = typer.Typer(help="Models that live: versions, published, promoted, rolled back.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.add_typer(models, name="models", rich_help_panel=None)


@models.command("keygen", epilog="\b\nExample: tailrace models keygen --out publisher.pem")
def models_keygen(out: Annotated[Path, typer.Option(help="The private key, for whoever publishes.")]) -> None:
    """Makes an Ed25519 key, and prints the public one for `registry.trusted_keys`."""
    from stream_app.model_store.signing import make_key

    say(make_key(out))


@models.command("publish", epilog="\b\nExample: tailrace models publish bundles/pump --config pump.yaml")
def models_publish(
    bundle: Path,
    detector: Annotated[str | None, typer.Option(help="Default: what `model` names, or the detector's name.")] = None,
    key: Annotated[Path | None, typer.Option(help="Signs; default: registry.signing_key.")] = None,
    reason: Reason = None,
    config_file: MaybeConfig = None,
    brokers: Brokers = None,
    as_json: Json = False,
) -> None:
    """The bundle becomes the detector's next version, a candidate. Killed on the way, it is simply run again."""
    from stream_app.model_store.verbs import Publication, publish

    config = _connection(config_file, brokers)
    name = detector or _detector(config, config_file)
    made = _run(publish(config, Publication(name, bundle, key=key, reason=reason)))
    rows([_row(made)], _data(made), as_json)


@models.command("list", epilog="\b\nExample: tailrace models list --config pump.yaml")
def models_list(
    detector: Annotated[str | None, typer.Option(help="Of one detector only.")] = None,
    config_file: MaybeConfig = None,
    brokers: Brokers = None,
    as_json: Json = False,
) -> None:
    """All versions: state, digest, when, what the gate said, where they come from."""
    from stream_app.model_store.fetching import history

    known = history(_connection(config_file, brokers))
    found = [p for name in known.detectors() for p in known.versions(name).values() if detector in (None, name)]
    rows([_row(pointer) for pointer in found], [_data(pointer) for pointer in found], as_json)
    if not found:
        note("no version was published: tailrace models publish BUNDLE")
    for refused in known.refused:
        note(f"{refused.key} at offset {refused.offset} does not count ({refused.reason}): {refused.words}")


@models.command("show", epilog="\b\nExample: tailrace models show pump@live --config pump.yaml")
def models_show(model: Named, config_file: MaybeConfig = None, brokers: Brokers = None, as_json: Json = False) -> None:
    """What a version is: lineage, the gate's report, its history; of a folder what the bundle says of itself."""
    from stream_app.model_store.places import reference

    wanted = reference(model)
    if wanted is None:
        from stream_app.opening import facts

        data: dict[str, Any] = facts(Path(model))
        rows([{"name": name, "value": value} for name, value in data.items()], data, as_json)
        return
    from stream_app.model_store.fetching import history

    pointer = history(_connection(config_file, brokers)).named(wanted)
    rows(_lines(pointer), _data(pointer), as_json)


@models.command("verify", epilog="\b\nExample: tailrace models verify bundles/pump")
def models_verify(
    model: Named, config_file: MaybeConfig = None, brokers: Brokers = None, as_json: Json = False
) -> None:
    """Opens it as a worker would: signature, digests, shapes, finiteness, and the golden scores again."""
    from stream_app.model_store.places import reference
    from stream_app.opening import verified

    wanted = reference(model)
    if wanted is None:
        facts = verified(Path(model))
    else:
        from stream_app.model_store.fetching import resolve

        pointer, folder = resolve(_connection(config_file, brokers), wanted)
        facts = {"model": pointer.name, "signed": pointer.signature is not None, **verified(folder)}
    rows([facts], facts, as_json)


@models.command("shadow", epilog="\b\nExample: tailrace models shadow pump@7 --config pump.yaml")
def models_shadow(
    model: Version,
    off: Annotated[bool, typer.Option("--off", help="Let nothing run in shadow.")] = False,
    reason: Reason = None,
    config_file: MaybeConfig = None,
    brokers: Brokers = None,
    as_json: Json = False,
) -> None:
    """The version runs beside the live one, and its scores and alerts go to topics of their own."""
    from stream_app.model_store.transitions import Wish
    from stream_app.model_store.verbs import shadow, unshadow

    config, (name, version) = _connection(config_file, brokers), _version(model)
    if off:
        _run(unshadow(config, Wish(name, reason=reason)))
        note(f"nothing runs in shadow of {name}")
        return
    made = _run(shadow(config, Wish(name, version, reason=reason)))
    rows([_row(made)], _data(made), as_json)


@models.command("promote", epilog="\b\nExample: tailrace models promote pump@7 --config pump.yaml")
def models_promote(
    model: Version,
    force: Annotated[bool, typer.Option("--force", help="Without a passed gate; it needs --reason.")] = False,
    reason: Reason = None,
    config_file: MaybeConfig = None,
    brokers: Brokers = None,
    as_json: Json = False,
) -> None:
    """The version goes live: every worker takes it over between two batches. Exit 5 without a passed gate."""
    from stream_app.model_store.transitions import Wish
    from stream_app.model_store.verbs import promote

    if force and not reason:
        raise UsageError("--force needs --reason, which is recorded")
    config, (name, version) = _connection(config_file, brokers), _version(model)
    made = _run(promote(config, Wish(name, version, forced=reason if force else None, reason=reason)))
    rows([_row(made)], _data(made), as_json)


@models.command("rollback", epilog="\b\nExample: tailrace models rollback pump --reason noisy")
def models_rollback(
    detector: str,
    to: Annotated[int | None, typer.Option(min=1, help="Default: the version that was live before.")] = None,
    reason: Reason = None,
    config_file: MaybeConfig = None,
    brokers: Brokers = None,
    as_json: Json = False,
) -> None:
    """An older version goes live again; there is no other way to it."""
    from stream_app.model_store.transitions import Wish
    from stream_app.model_store.verbs import rollback

    made = _run(rollback(_connection(config_file, brokers), Wish(detector, to, reason=reason)))
    rows([_row(made)], _data(made), as_json)


@models.command("prune", epilog="\b\nExample: tailrace models prune --config pump.yaml --keep 5")
def models_prune(
    keep: Annotated[int | None, typer.Option(min=1, help="Retired versions to keep; default: registry.keep.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and delete nothing.")] = False,
    config_file: MaybeConfig = None,
    brokers: Brokers = None,
    as_json: Json = False,
) -> None:
    """Deletes the bundles of versions that retired long ago, where they lie and from this machine's cache."""
    from dataclasses import asdict

    from stream_app.model_store.pruning import prune

    config = _connection(config_file, brokers)
    if keep is not None:
        registry = config.registry.model_copy(update={"keep": keep})
        config = config.model_copy(update={"registry": registry})
    done = _run(prune(config, dry_run))
    rows([{"pruned": name} for name in done.versions], asdict(done), as_json)
    would = "would be " if dry_run else ""
    note(
        f"{done.chunks + done.unclaimed} chunks {would}deleted ({done.unclaimed} that no version claims); "
        f"{done.cached} bundles deleted from the cache"
    )


# --- what the commands share -----------------------------------------------------------------------------------------


def _connection(config_file: Path | None, brokers: str | None) -> Config:
    from stream_app.cli.connection import connection

    logs_to_stderr()
    return connection(config_file, brokers)


def _run(work: Any) -> Any:
    import asyncio

    return asyncio.run(work)


def _detector(config: Config, config_file: Path | None) -> str:
    from stream_app.model_store.places import reference

    wanted = reference(config.model)
    if wanted is None and config_file is None:
        raise UsageError("give --config, or --detector: a version belongs to a detector")
    return wanted.detector if wanted else config.detector


def _version(model: str) -> tuple[str, int | None]:
    name, at, version = model.partition("@")
    if at and not (version.isdigit() and len(version) < 10 and int(version)):
        raise UsageError(f"{model!r} is no version; write DETECTOR@7, or DETECTOR for the latest")
    return name, int(version) if at else None


def _data(pointer: Pointer) -> dict[str, Any]:
    import json

    from stream_app.model_store.pointers import encode

    data: dict[str, Any] = json.loads(encode(pointer))
    return data


def _row(pointer: Pointer) -> dict[str, Any]:
    gate = pointer.gate
    alarm = next((check.value for check in gate.checks if check.name.startswith("alarm")), None) if gate else None
    return {
        "detector": pointer.detector,
        "version": pointer.version,
        "state": pointer.state,
        "digest": pointer.digest.removeprefix("sha256:")[:12],
        "published": _time(pointer.history[0].at_ms) if pointer.history else None,
        "gate": None if gate is None else "passed" if gate.passed else "failed",
        "alarm": alarm,
        "parent": pointer.lineage.get("parent"),
        "reason": pointer.reason,
    }


def _lines(pointer: Pointer) -> list[dict[str, Any]]:
    """The pointer from top to bottom, a line for each thing."""
    fields = ("digest", "state", "location", "bytes", "signature")
    lines = [("version", pointer.name), *((name, getattr(pointer, name)) for name in fields)]
    lines += [(f"lineage.{name}", value) for name, value in pointer.lineage.items()]
    for check in pointer.gate.checks if pointer.gate else ():
        told = f"{'passed' if check.passed else 'FAILED'}: {check.value} (limit {check.limit}) {check.detail}"
        lines.append((f"gate.{check.name}", told.rstrip()))
    for step in pointer.history:
        back = f" instead of {step.rolled_back_from}" if step.rolled_back_from else ""
        lines.append((_time(step.at_ms), f"{step.state}{back}{f': {step.reason}' if step.reason else ''}"))
    return [{"name": name, "value": value} for name, value in lines]


def _time(at_ms: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
