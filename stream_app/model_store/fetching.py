"""Fetching a version: from where it lies into a folder, verified at every step and before anything opens it.

In: a pointer. Out: the folder of a bundle, or BundleRefused. Remembers: bundles fetched before, in the folder.

In order: signature against the trusted keys; size; place; then the files, which can only be the three of a bundle, and
only as many bytes as were published; digest of the manifest and of the files, schema version, names, shapes, types,
finite numbers (`models.bundle.read`). Golden scores are reproduced when the bundle is opened.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import structlog

from models.bundle import ARRAYS, GOLDEN, MANIFEST, BundleProblem, read
from stream_app.config import Config
from stream_app.errors import BundleRefused, ConfigurationError
from stream_app.model_store.history import History
from stream_app.model_store.places import Reference, cache_folder
from stream_app.model_store.pointers import Pointer
from stream_app.model_store.signing import check_signature
from stream_app.model_store.storage import load
from stream_app.model_store.topic import read_pointers

log = structlog.get_logger("worker")

FILES = (MANIFEST, ARRAYS, GOLDEN)
# What a second writing of the same chunks may have mended, or a copy of the topic, where offsets are others.
_MENDED = ("missing", "digest", "size", "content")


def fetch(config: Config, pointer: Pointer, folder: Path) -> Path:
    """The verified bundle of a pointer, in a folder of its own below `folder`; what was fetched before is used again.

    It blocks, and may be called from any thread. Raises BundleRefused, ConfigurationError, BrokerUnreachable.
    """
    try:
        return _fetched(config, pointer, folder)
    except BundleRefused as problem:
        log.warning("bundle refused", model=pointer.name, reason=problem.reason, why=str(problem))
        raise


def resolve(config: Config, wanted: Reference) -> tuple[Pointer, Path]:
    """The version that a reference names now, and its verified bundle in the cache. Raises as `fetch` does."""
    pointer = history(config).named(wanted)
    return pointer, fetch(config, pointer, cache_folder(config))


def history(config: Config) -> History:
    """`read_pointers` for callers without a loop, or within one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(read_pointers(config))).result()


def _fetched(config: Config, pointer: Pointer, folder: Path) -> Path:
    check_signature(pointer, config.registry)
    home = folder / pointer.digest.removeprefix("sha256:")
    if home.is_dir():
        with suppress(BundleRefused):
            _verify(home, pointer)
            with suppress(OSError):
                os.utime(home)  # in use: pruning leaves it
            return home
        shutil.rmtree(home, ignore_errors=True)  # a disk that lies
    try:
        return _put(_loaded(config, pointer, whole=False), home, pointer)
    except BundleRefused as problem:
        if problem.reason not in _MENDED:
            raise
    return _put(_loaded(config, pointer, whole=True), home, pointer)


def _loaded(config: Config, pointer: Pointer, whole: bool) -> dict[str, bytes]:
    with ThreadPoolExecutor(1) as thread:
        files = thread.submit(lambda: asyncio.run(load(config, pointer, FILES, whole))).result()
    _check_files(files, pointer)
    return files


def _check_files(files: Mapping[str, bytes], pointer: Pointer) -> None:
    if set(files) != set(FILES):
        raise BundleRefused(f"{pointer.name} holds {sorted(files)} where {sorted(FILES)} make a bundle", "content")
    size = sum(map(len, files.values()))
    if size != pointer.bytes:
        raise BundleRefused(f"{pointer.name} has {size} bytes where {pointer.bytes} were published", "size")


def _put(files: Mapping[str, bytes], home: Path, pointer: Pointer) -> Path:
    """Written beside, verified, then renamed: nobody finds half a bundle."""
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".fetching-", dir=home.parent))
    except OSError as problem:
        raise ConfigurationError(f"registry.cache: {home.parent}: {problem.strerror}") from problem
    try:
        for name, data in files.items():
            (draft / name).write_bytes(data)
        _verify(draft, pointer)
        with suppress(OSError):  # another worker of this machine was faster
            draft.rename(home)
        return home
    except OSError as problem:
        raise ConfigurationError(f"registry.cache: {home.parent}: {problem.strerror}") from problem
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _verify(folder: Path, pointer: Pointer) -> None:
    try:
        read(folder, pointer.digest)
    except BundleProblem as problem:
        raise BundleRefused(f"{pointer.name}: {problem}", problem.reason) from problem
