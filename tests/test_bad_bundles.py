"""Bad bundles and bad pointers: all are refused by name, nothing in them is executed, and what is good opens."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import fsspec
import pytest
from bad_bundles import BAD, Files, declared
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models_rig import bundle, configuration, in_memory, stored
from structlog.testing import capture_logs

from models.bundle import ARRAYS, GOLDEN, MANIFEST
from stream_app.config import Config
from stream_app.errors import REFUSALS, BundleRefused, StoreUnreachable
from stream_app.model_store.fetching import FILES, fetch
from stream_app.model_store.pointers import Pointer, with_fields
from stream_app.opening import open_bundle

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good bundle, a key, and a cache."""
    folder = tmp_path_factory.mktemp("bad")
    bundle(folder)
    return folder


@pytest.fixture(scope="module")
def good(made: Path) -> Files:
    return {name: (made / "bundle-0" / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def config(made: Path) -> Config:
    return in_memory(made, "bad")


def digest_in(files: Files) -> str | None:
    """What a publisher would say of the bundle: what its manifest says."""
    with suppress(ValueError, RecursionError, TypeError, KeyError):
        found = json.loads(files[MANIFEST])["digest"]
        return found if isinstance(found, str) and len(found) == len("sha256:") + 64 else None
    return None


def opened(config: Config, pointer: Pointer) -> str:
    """As a worker does it that never fetched a bundle; gives the digest of what was opened."""
    cache = config.registry.cache
    assert cache is not None
    shutil.rmtree(cache, ignore_errors=True)
    return open_bundle(fetch(config, pointer, cache), pointer.digest).digest


def test_the_good_one_opens(config: Config, good: Files) -> None:
    pointer = stored(config, good, digest=digest_in(good))
    assert opened(config, pointer) == opened(config, pointer) == pointer.digest


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_bundle_is_refused_for_what_it_is(config: Config, good: Files, kind: str) -> None:
    damage, reason = BAD[kind]
    files = damage(good)
    pointer = stored(config, files, digest=digest_in(files))
    with pytest.raises(BundleRefused) as refused:
        opened(config, pointer)
    assert refused.value.reason in {reason, "digest"}, refused.value
    assert refused.value.reason in REFUSALS
    assert len(str(refused.value)) < 600


POINTERS: dict[str, tuple[Callable[[Pointer], Pointer], str]] = {
    "not signed": (lambda p: with_fields(p, signature=None), "unsigned"),
    "signed by nobody": (lambda p: with_fields(p, signature="AAAA"), "signature"),
    "a signature that is no base64": (lambda p: with_fields(p, signature="é" * 20), "signature"),
    "another's signature": (lambda p: with_fields(p, version=2), "signature"),
    "another detector": (lambda p: with_fields(p, detector="fan"), "signature"),
    "another lineage": (lambda p: with_fields(p, lineage={}), "signature"),
    "another place": (lambda p: with_fields(p, location="file:///etc"), "signature"),
}  # fmt: skip


@pytest.mark.parametrize("kind", POINTERS)
def test_a_pointer_that_its_publisher_did_not_write_is_refused(config: Config, good: Files, kind: str) -> None:
    change, reason = POINTERS[kind]
    pointer = change(stored(config, good, digest=digest_in(good)))
    with capture_logs() as logs, pytest.raises(BundleRefused) as refused:
        opened(config, pointer)
    assert refused.value.reason == reason
    assert [(line["reason"], line["model"]) for line in logs] == [(reason, pointer.name)]


PLACES = {
    "up and away": "memory://bad/../../etc/pump",
    "a link in the name": "memory://bad/pump/../secret",
    "another store": "https://example.org/bundle",
    "a file": "file:///etc",
    "a chain": "simplecache::memory://bad/pump",
    "another bundle's": "memory://bad/pump/" + "0" * 64,
    "another topic": "kafka:orders#0",
}


@pytest.mark.parametrize("kind", PLACES)
def test_a_pointer_sends_nobody_elsewhere(config: Config, good: Files, kind: str, tmp_path: Path) -> None:
    """Even signed: whoever may sign models may not have us read what we may read."""
    pointer = stored(config, good, digest=digest_in(good), location=PLACES[kind])
    fresh = config.model_copy(update={"registry": config.registry.model_copy(update={"cache": tmp_path})})
    with pytest.raises(BundleRefused) as refused:
        opened(fresh, pointer)
    assert refused.value.reason == "location"


def fresh(config: Config, cache: Path, **registry: object) -> Config:
    return config.model_copy(update={"registry": config.registry.model_copy(update={"cache": cache, **registry})})


def test_more_or_fewer_bytes_than_published_are_refused(config: Config, good: Files, tmp_path: Path) -> None:
    size = sum(map(len, good.values()))
    for claimed in (1, size - 1, size + 1):
        with pytest.raises(BundleRefused) as refused:
            opened(fresh(config, tmp_path), stored(config, good, digest=digest_in(good), bytes=claimed))
        assert refused.value.reason == "size"
    with pytest.raises(BundleRefused, match="registry.max_bytes allows".replace(".", r"\.")):
        opened(fresh(config, tmp_path, max_bytes=size - 1), stored(config, good, digest=digest_in(good)))


def test_a_missing_file_and_a_missing_store_are_told_apart(made: Path, good: Files, tmp_path: Path) -> None:
    at = configuration("127.0.0.1:1", "bad", made, store=f"file://{tmp_path}/store", cache=str(tmp_path / "cache"))
    pointer = stored(at, good, digest=digest_in(good))
    place = Path(pointer.location.removeprefix("file://"))
    (place / GOLDEN).unlink()
    with pytest.raises(BundleRefused, match=f"there is no {GOLDEN}"):
        opened(at, pointer)
    (place / GOLDEN).mkdir()
    with pytest.raises(StoreUnreachable, match="can't be read"):
        opened(at, pointer)
    (tmp_path / "file").write_text("")
    nowhere = fresh(at, tmp_path, store=f"file://{tmp_path}/file/store")
    with pytest.raises(StoreUnreachable, match="can't be written"):
        stored(nowhere, good)


def test_without_keys_nothing_is_opened_unless_that_is_asked_for(config: Config, good: Files, tmp_path: Path) -> None:
    unsigned = with_fields(stored(config, good, digest=digest_in(good)), signature=None)
    with pytest.raises(BundleRefused, match="no keys are configured"):
        opened(fresh(config, tmp_path, trusted_keys=()), unsigned)
    assert opened(fresh(config, tmp_path, trusted_keys=(), allow_unsigned=True), unsigned) == unsigned.digest


def test_a_cache_that_was_touched_is_fetched_again(config: Config, good: Files, tmp_path: Path) -> None:
    pointer = stored(config, good, digest=digest_in(good))
    kept = fetch(config, pointer, tmp_path)
    (kept / ARRAYS).write_bytes(b"touched")
    assert fetch(config, pointer, tmp_path) == kept
    assert (kept / ARRAYS).read_bytes() == good[ARRAYS]
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]


def test_what_is_in_a_store_already_is_kept(config: Config, good: Files) -> None:
    pointer = stored(config, good, digest=digest_in(good))
    system, path = fsspec.core.url_to_fs(pointer.location)
    before = system.modified(f"{path}/{ARRAYS}")
    stored(config, good, digest=digest_in(good))
    assert system.modified(f"{path}/{ARRAYS}") == before


def _fuzzed(data: bytes, at: float, noise: bytes, cut: bool) -> bytes:
    i = int(at * len(data))
    return data[:i] + noise + (b"" if cut else data[i + len(noise) :])


NOISE = st.binary(min_size=1, max_size=40) | st.sampled_from([b"9" * 30, b"[[[[", b"null", b"-1", b'""', b"1e999"])
VALUES = st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(-1e308, 1e308) | st.text(max_size=3)
AT = st.floats(0, 1, exclude_max=True)
MISUSE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)  # of the test's own way to write a manifest


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=st.sampled_from(FILES), at=AT, noise=NOISE, cut=st.booleans(), told=st.booleans())
def test_whatever_bytes_are_changed_the_bundle_opens_as_it_was_or_is_refused(
    config: Config, good: Files, name: str, at: float, noise: bytes, cut: bool, told: bool
) -> None:
    # Headers and manifests are where a reader can be led astray: half of the changes fall there.
    at = at * 2000 / len(good[name]) if told and name != MANIFEST else at
    files = {**good, name: _fuzzed(good[name], at, noise, cut)}
    if told:
        with suppress(*MISUSE):
            files = declared(files)
    pointer = stored(config, files, digest=digest_in(files))
    with suppress(BundleRefused):
        assert opened(config, pointer) == pointer.digest


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), VALUES | st.sampled_from([[], {}, [[]]]))
def test_whatever_a_manifest_says_the_bundle_opens_or_is_refused(
    config: Config, good: Files, data: st.DataObject, value: object
) -> None:
    manifest = json.loads(good[MANIFEST])
    place = manifest
    for _ in range(6):
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.integers(0, 3)) == 0:
            break
        place = place[key]
    place[key] = value
    files = {**good, MANIFEST: json.dumps(manifest).encode()}
    with suppress(*MISUSE):
        files = declared(files)
    pointer = stored(config, files, digest=digest_in(files))
    with suppress(BundleRefused):
        assert opened(config, pointer) == pointer.digest


def test_nothing_is_executed(made: Path, good: Files) -> None:
    """In a process whose every door for code is watched: unpickling, torch.load, compile, exec, other processes."""
    folders = []
    for i, (damage, _) in enumerate(BAD.values()):
        folder = made / "watched" / str(i)
        folder.mkdir(parents=True)
        for name, data in damage(good).items():
            (folder / name).write_bytes(data)
        folders.append(str(folder))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tests" / "watched_opening.py"), str(made / "bundle-0"), *folders]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"refused": len(BAD), "executed": [], "traps work": True}
