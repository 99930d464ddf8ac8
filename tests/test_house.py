"""The house's rules that a machine can check: who may import what, and what nobody may."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("models", "stream_app", "training")
MODULES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
MAY_IMPORT = {"models": {"models"}, "stream_app": {"models", "stream_app"}, "training": set(PACKAGES)}

# One door per heavy library: the modules, by pattern, that may import it.
DOORS = {
    "faust": ["stream_app/live/app.py", "stream_app/live/transport.py"],
    "mode": ["stream_app/live/app.py", "stream_app/live/transport.py"],
    "torch": ["models/*", "training/*"],
    "hdbscan": ["models/clusters.py", "training/*"],
    "river": ["stream_app/drift/*.py"],
    # The wire codec: records coming in, alerts going out, the metadata of a commit, what is told of bundles, and the
    # schemas of all of them.
    "msgspec": [
        "stream_app/records/*.py",
        "stream_app/alerts/wire.py",
        "stream_app/checkpoint.py",
        "stream_app/handovers.py",
        "stream_app/model_store/pointers.py",
        "stream_app/schemas.py",
    ],
    "plotly": ["stream_app/report/page.py"],
    "jinja2": ["stream_app/report/page.py"],
    "noida_db": ["stream_app/brokers/kafka/embedded.py"],
}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_ATTRIBUTES = {
    ("torch", "load"),
    ("torch", "save"),
    ("yaml", "load"),
    ("yaml", "unsafe_load"),
    ("os", "system"),
}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "tools", "misc", "manager", "base", "core"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield node.module or ""


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = {name.split(".")[0] for name in imports(parse(path))} & set(PACKAGES)
    assert ours <= MAY_IMPORT[package]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_each_heavy_library_has_one_door(path: Path) -> None:
    name = name_of(path)
    for library in {name.split(".")[0] for name in imports(parse(path))} & set(DOORS):
        assert any(fnmatch(name, door) for door in DOORS[library]), library


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_received_can_be_executed(path: Path) -> None:
    tree = parse(path)
    assert not {name.split(".")[0] for name in imports(tree)} & FORBIDDEN_MODULES
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name):
            assert called.id not in FORBIDDEN_CALLS, f"line {node.lineno}"
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
            assert (called.value.id, called.attr) not in FORBIDDEN_ATTRIBUTES, f"line {node.lineno}"
            assert not any(k.arg == "allow_pickle" for k in node.keywords), f"line {node.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_is_named_after_what_it_holds(path: Path) -> None:
    assert not {path.stem, *path.relative_to(ROOT).parts[:-1]} & FORBIDDEN_NAMES


@pytest.mark.parametrize("path", [p for p in MODULES if p.name != "__init__.py"], ids=name_of)
def test_a_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(parse(path))
