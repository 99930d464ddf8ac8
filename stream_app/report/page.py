"""A report as one file of HTML that needs no network: text, tables and charts, light or dark as the reader's screen is.

In: a `Page`. Out: HTML text. Remembers: nothing.

What stands on it comes from Kafka, where anybody may choose an entity's name. So every text is escaped, numbers travel
as JSON that is not executed, and a content security policy allows the two scripts that are ours, by their digests, and
nothing else: no request, no other script, no form.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


@dataclass(frozen=True)
class Chart:
    """A figure as plotly takes it, colours by the page's names: var(--a). `words`: what is to be seen in it."""

    figure: dict[str, Any]
    height: int  # pixels
    words: str = ""
    name: str = ""  # by which a row of a table points to it


@dataclass(frozen=True)
class Row:
    """Cells of a table; `go`: a chart's name and the times to show there, in milliseconds."""

    cells: tuple[str, ...]
    go: tuple[str, float, float] | None = None
    kind: str = ""  # a word that colours it: added, lost, moved, changed, same


@dataclass(frozen=True)
class Table:
    """`numbers`: the columns that are aligned to the right."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    numbers: frozenset[int] = frozenset()
    words: str = ""


@dataclass(frozen=True)
class Section:
    """A heading, a sentence or two, and what is shown under it."""

    title: str
    words: tuple[str, ...]
    parts: tuple[Chart | Table, ...] = ()

    @property
    def anchor(self) -> str:
        """Its name in links."""
        return "".join(c if c.isalnum() else "-" for c in self.title.lower()).strip("-")


@dataclass(frozen=True)
class Page:
    """`summary` is read first, and by many alone. `notes`: what must be known before the rest is believed."""

    title: str
    summary: str
    facts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    sections: tuple[Section, ...] = field(default=())


def render(page: Page) -> str:
    """The file's text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
    charts = [part for section in page.sections for part in section.parts if isinstance(part, Chart)]
    scripts = (get_plotlyjs() if charts else "", _script())
    return environment.get_template("page.html").render(
        page=page,
        charts=charts,
        figures=safe_json([chart.figure for chart in charts]),
        scripts=scripts,
        digests=[_digest(script) for script in scripts],
        style=(_HERE / "page.css").read_text(),
        is_chart=lambda part: isinstance(part, Chart),
    )


def safe_json(value: Any) -> str:
    """JSON that can stand in HTML whatever it holds; what is not finite becomes null.

    >>> safe_json(["</script>", float("nan")])
    '["\\\\u003c/script\\\\u003e", null]'
    """
    text = json.dumps(plain(value), ensure_ascii=False)
    for character, code in _UNSAFE.items():
        text = text.replace(character, code)
    return text


def plain(value: Any) -> Any:
    """Arrays and numbers of numpy as JSON has them; floats to six digits, which is more than a screen shows."""
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str | bytes):
        return value
    if isinstance(value, Sequence):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if abs(value) < 1e9 and math.isfinite(value) else _large(value)
    return value


def _large(value: float) -> float | None:
    """Times in milliseconds keep their digits."""
    return value if math.isfinite(value) else None


@cache
def _script() -> str:
    return (_HERE / "page.js").read_text()


def _digest(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
