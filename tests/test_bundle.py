"""Bundles: what is written opens and says the same; what was touched is refused by name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models.bundle import ARRAYS, GOLDEN, MANIFEST, Bundle, BundleProblem, _digest, open_detector, read, write
from tests.sensor_worlds import World, detector, scenes, score, trained


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "bundle", trained("aligned").bundle)
    return tmp_path / "bundle"


@pytest.mark.parametrize("kind", ["aligned", "single", "multirate"])
def test_a_bundle_opens_and_scores_as_before(tmp_path: Path, kind: str) -> None:
    digest = write(tmp_path, trained(kind).bundle)
    opened = open_detector(tmp_path, digest)
    given = scenes(detector(kind), World(kind, 1, 40.0, seed=2).data())
    np.testing.assert_array_equal(score(opened, given).score, score(detector(kind), given).score)  # type: ignore[arg-type]
    assert opened.digest == digest
    assert opened.risk == trained(kind).bundle.settings["risk"]


def test_writing_twice_gives_one_digest(tmp_path: Path) -> None:
    bundle = trained("aligned").bundle
    assert write(tmp_path / "a", bundle) == write(tmp_path / "b", bundle)


def test_the_tails_arrays_come_back(folder: Path) -> None:
    tail = trained("aligned").bundle.tail
    again = read(folder).tail
    assert set(again) == set(tail)
    for name, value in tail.items():
        np.testing.assert_array_equal(again[name], value)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit(path: Path, change: Callable[[dict], None], digest: bool = True) -> None:
    """Changes the manifest; with `digest`, as somebody would who knows how it is computed."""
    manifest = json.loads(path.read_text())
    manifest.pop("digest")
    change(manifest)
    path.write_text(json.dumps({**manifest, "digest": _digest(manifest) if digest else "sha256:0"}))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda f: (f / MANIFEST).unlink(), "missing"),
    "no arrays": (lambda f: (f / ARRAYS).unlink(), "missing"),
    "truncated arrays": (lambda f: (f / ARRAYS).write_bytes((f / ARRAYS).read_bytes()[:-7]), "digest"),
    "longer arrays": (lambda f: (f / ARRAYS).write_bytes((f / ARRAYS).read_bytes() + b"x"), "bytes"),
    "a flipped bit in the arrays": (lambda f: flip(f / ARRAYS), "digest"),
    "a flipped bit in the golden windows": (lambda f: flip(f / GOLDEN), "digest"),
    "not JSON": (lambda f: (f / MANIFEST).write_text("{"), "not a JSON"),
    "NaN in the manifest": (lambda f: (f / MANIFEST).write_text('{"risk": NaN}'), "not a JSON"),
    "deeply nested": (lambda f: (f / MANIFEST).write_text("[" * 100_000), "not a JSON"),
    "a list": (lambda f: (f / MANIFEST).write_text("[]"), "not a JSON"),
    "another schema": (lambda f: edit(f / MANIFEST, lambda m: m.update(schema_version=2)), "schema version"),
    "another kind": (lambda f: edit(f / MANIFEST, lambda m: m.update(kind="images")), "kind"),
    "an edited setting": (lambda f: edit(f / MANIFEST, lambda m: m["settings"].update(risk=0.4), False), "digest"),
    "a setting that does not fit": (
        lambda f: edit(f / MANIFEST, lambda m: m["settings"]["fitted"]["grid"].update(memory=1)),
        "does not describe",
    ),
    "a setting of the wrong type": (
        lambda f: edit(f / MANIFEST, lambda m: m["settings"]["fitted"].update(sensors=7)),
        "does not describe",
    ),
    "an older version's settings": (
        lambda f: edit(f / MANIFEST, lambda m: m["settings"]["fitted"].pop("networks")),
        r"has no 'networks' in its settings, as this version needs it.*\. Train the detector again with this version",
    ),
    "an older version's arrays": (
        lambda f: edit(f / MANIFEST, lambda m: m["settings"]["fitted"].update(encoder="none")),
        r"\. Train the detector again",
    ),
    "an impossible risk": (
        lambda f: edit(f / MANIFEST, lambda m: m["settings"].update(risk=2)),
        "does not describe",
    ),
    "a link": (lambda f: ((f / ARRAYS).rename(f / "x"), (f / ARRAYS).symlink_to(f / "x")), "regular"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_touched_bundle_is_refused_by_name(folder: Path, name: str) -> None:
    damage, said = DAMAGE[name]
    damage(folder)
    with pytest.raises(BundleProblem, match=said):
        open_detector(folder)


def changed(**arrays: np.ndarray) -> Bundle:
    bundle = trained("aligned").bundle
    return dataclasses.replace(bundle, arrays=bundle.arrays | arrays)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"unit": np.full(4, np.nan)}, "not finite"),
        ({"unit": np.ones(5)}, "unit"),
        ({"unit": np.ones(4, np.float32)}, "unit"),
        ({"extra": np.ones(4)}, "extra"),
        ({"unit": np.full(4, 7.0)}, "golden"),
    ],
    ids=["not finite", "another shape", "another type", "one too many", "other numbers"],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], said: str) -> None:
    write(tmp_path, changed(**arrays))
    with pytest.raises(BundleProblem, match=said):
        open_detector(tmp_path)


def test_a_bundle_of_another_digest_is_refused(folder: Path) -> None:
    with pytest.raises(BundleProblem, match="not sha256:1"):
        open_detector(folder, "sha256:1")


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleProblem, match=MANIFEST):
        open_detector(tmp_path)
