"""Clusters by five methods: placed as their libraries place, compared by figures that a slow twin can check."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import permutations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

from models.clusters import METHODS, ClustersProblem, place, prepare, read_clusters, write_clusters
from training.cluster_labels import calibrate_membership, pseudo_labels, purities
from training.cluster_picture import picture
from training.cluster_scores import against, silhouette, stability
from training.clusters import Wish, all_methods, compare, fit_clusters

KINDS = 4


def blobs(seed: int = 0, n: int = 240, d: int = 6) -> tuple[np.ndarray, list[str]]:
    """Points around well separated directions, and the name of each one's direction."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, KINDS, n)
    return 5 * np.eye(d)[kind] + 0.3 * rng.normal(size=(n, d)), [f"kind {k}" for k in kind]


@pytest.mark.parametrize("method", METHODS)
def test_separated_kinds_are_found_and_survive_the_disk(method: str, tmp_path: Path) -> None:
    points, truth = blobs()
    clusters = fit_clusters(points, Wish(method, None if method == "hdbscan" else KINDS, width=4))
    label, membership = place(clusters, points)
    assert against(label.astype(np.int64), truth).accuracy > 0.9
    assert ((membership >= 0) & (membership <= 1)).all()
    write_clusters(tmp_path, clusters)
    again = place(read_clusters(tmp_path), points)
    assert (again[0] == label).all()
    assert (again[1] == membership).all()


def test_k_means_and_mixtures_place_new_points_as_their_library_does() -> None:
    points, _ = blobs()
    fresh = blobs(1)[0] + 1.0
    for method, kind in (
        ("kmeans", KMeans(4, n_init=3, random_state=0)),
        ("gmm", GaussianMixture(4, reg_covar=1e-4, random_state=0)),
    ):
        clusters = fit_clusters(points, Wish(method, 4))
        model = kind.fit(prepare(clusters.preparation, points))
        assert (place(clusters, fresh)[0] == model.predict(prepare(clusters.preparation, fresh))).all()


def test_the_bayesian_mixture_keeps_responsibilities() -> None:
    points, _ = blobs()
    clusters = fit_clusters(points, Wish("bayesian_gmm", 4))
    x = prepare(clusters.preparation, points)
    model = BayesianGaussianMixture(
        n_components=8,
        weight_concentration_prior_type="dirichlet_process",
        reg_covar=1e-4,
        max_iter=300,
        random_state=0,
    ).fit(x)
    assert place(clusters, points)[1] == pytest.approx(model.predict_proba(x).max(1), abs=0.02)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 3), st.sampled_from("abc")), min_size=1, max_size=30))
def test_accuracy_is_that_of_the_best_one_to_one_naming(rows: list[tuple[int, str]]) -> None:
    label, truth = np.array([r[0] for r in rows]), [r[1] for r in rows]
    named = [
        sum(c == k and t == name for c, t in rows for k, name in zip(p, "abc", strict=True))
        for p in permutations(range(4), 3)
    ]
    assert against(label, truth).accuracy == pytest.approx(max(named) / len(rows))


def test_every_method_is_compared_by_every_figure() -> None:
    points, truth = blobs(n=120)
    found = compare(points, truth, all_methods(KINDS), resamples=2)
    assert [c.method for c in found] == list(METHODS)
    for c in found:
        assert c.truth is not None
        assert set(c.truth.classes) == set(truth)
        assert 0 <= c.truth.macro_f1 <= 1
        assert -1 <= c.truth.ari <= c.truth.nmi + 0.5
        assert c.stability.mean is not None
        assert c.silhouette is not None
        assert c.row()["truth"]["classes"]["kind 0"]["n"] == truth.count("kind 0")


def test_noise_and_one_cluster_have_no_silhouette() -> None:
    x = np.random.default_rng(0).normal(size=(10, 2))
    assert silhouette(x, np.full(10, -1), 0) is None
    assert silhouette(x, np.zeros(10, np.int64), 0) is None
    assert stability(np.zeros(10, np.int64), []).mean is None


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-1, 2), st.floats(0, 1, width=32)), min_size=1, max_size=60), st.floats(0.01, 0.5)
)
def test_a_membership_threshold_keeps_its_rate_or_says_that_it_cannot(
    rows: list[tuple[int, float]], rate: float
) -> None:
    cluster, membership = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    found = calibrate_membership(cluster, membership, rate)
    flagged = np.mean((cluster < 0) | (membership < found.tau))
    assert found.reached == (np.mean(cluster < 0) <= rate)
    assert flagged == pytest.approx(found.false_rate)
    assert (flagged <= rate) == found.reached
    assert ("no threshold" in found.said(rate)) != found.reached


def test_pseudo_labels_keep_pure_clusters_and_firm_points() -> None:
    cluster, label = np.array([0, 0, 0, 1, 1, -1]), ["a", "a", "a", "a", "b", "b"]
    membership = np.array([0.9, 0.2, 0.8, 1.0, 1.0, 0.0])
    purity = purities(cluster, label)
    assert [(p.cluster, p.n, p.label, p.purity) for p in purity] == [(0, 3, "a", 1.0), (1, 2, "a", 0.5)]
    made = pseudo_labels(cluster, membership, purity)
    assert made.label == ["a", "a", "a", "a", "a", ""]
    assert made.kept.tolist() == [True, False, True, False, False, False]


def test_what_is_no_folder_of_clusters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClustersProblem):
        read_clusters(tmp_path)
    write_clusters(tmp_path, fit_clusters(blobs()[0], Wish("kmeans", 3)))
    (tmp_path / "clusters.json").write_text((tmp_path / "clusters.json").read_text().replace("kmeans", "pickle"))
    with pytest.raises(ClustersProblem, match="schema version"):
        read_clusters(tmp_path)


def test_a_writer_that_is_killed_leaves_what_was_there_before(tmp_path: Path) -> None:
    """Names given anew used to leave half a file; another fit the arrays of one with the names of the other."""
    program = Path(__file__).with_name("killed_clusters.py")
    environment = {**os.environ, "PYTHONPATH": str(program.parent.parent)}
    done = subprocess.run([sys.executable, program, tmp_path], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    outcomes = [(before, after) for before, after in json.loads(done.stdout)]
    assert set(outcomes) == {(0, 0), (0, 3), (2, 2), (2, 3)}
    assert len(outcomes) > 8, "each was killed at several steps"


def test_clusters_of_before_their_arrays_had_digests_are_read(tmp_path: Path) -> None:
    write_clusters(tmp_path, fit_clusters(blobs()[0], Wish("kmeans", 3)))
    settings = json.loads((tmp_path / "clusters.json").read_text())
    (tmp_path / settings.pop("data")).rename(tmp_path / "clusters.safetensors")
    (tmp_path / "clusters.json").write_text(json.dumps(settings))
    assert len(read_clusters(tmp_path)) == 3
    (tmp_path / "clusters.json").write_text(json.dumps(settings | {"data": "../clusters.safetensors"}))
    with pytest.raises(ClustersProblem):
        read_clusters(tmp_path)


@pytest.mark.parametrize("wish", [Wish("dbscan"), Wish("kmeans", 2)])
def test_what_cannot_be_fitted_is_refused_in_words(wish: Wish) -> None:
    with pytest.raises(ValueError, match=r"is no method|points"):
        fit_clusters(np.zeros((1, 3)), wish)


def test_the_picture_shows_every_cluster_by_name_and_is_valid_xml() -> None:
    points, truth = blobs(n=100)
    label = np.array([int(t[-1]) for t in truth]) - (np.arange(100) < 5) * 10
    drawn = picture(points, np.maximum(label, -1), {0: "up & <running>"})
    root = ElementTree.fromstring(drawn)
    text = [element.text or "" for element in root.iter() if element.tag.endswith("text")]
    assert len(text) == 5
    assert any(line.startswith("up & <running>") for line in text)
    assert any(line.startswith("noise (5)") for line in text)
    ElementTree.fromstring(picture(np.zeros((1, 1)), np.array([-1])))
