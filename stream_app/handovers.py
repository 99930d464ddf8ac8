"""What workers tell of bundles: on one topic which took over where, on another how a shadow agrees with the live one.

In: a swap, or the sums of a shadow. Out: records, key and JSON. Remembers: nothing. Names are a contract: `replay
--model live` reads the swaps, people the agreement.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import msgspec
from msgspec import Struct

from stream_app.checkpoint import Swap
from stream_app.shadow import Agreement, Beside


class SwapTold(Struct, frozen=True, rename={"origin": "from"}):
    """From the record at `offset` on, a partition is scored by the bundle `to`."""

    detector: str
    group: str
    topic: str
    partition: int
    offset: int
    origin: str | None  # digest; null: the first
    to: str  # digest
    version: int  # 0: it has none
    at_ms: int
    missed: int = 0  # windows that it passed over as a shadow

    @property
    def key(self) -> bytes:
        """With the time: a version that is rolled back at once gives way at the offset at which it began."""
        return f"{self.group}/{self.topic}/{self.partition}/{self.offset}/{self.at_ms}".encode()

    def value(self) -> bytes:
        return msgspec.json.encode(self)


class BesideTold(Struct, frozen=True):
    """From the record at `offset` on, a version judges a partition beside the live one; none where `shadow` is null."""

    detector: str
    group: str
    topic: str
    partition: int
    offset: int
    shadow: str | None  # digest
    version: int
    at_ms: int
    missed: int | None = None  # windows that the one until then has not learned from; null: not told

    @property
    def key(self) -> bytes:
        return f"{self.group}/{self.topic}/{self.partition}/{self.offset}/shadow".encode()

    def value(self) -> bytes:
        return msgspec.json.encode(self)


@dataclass(frozen=True, kw_only=True)
class AgreementTold(Agreement):
    """Sums over a partition since the shadow began; the newest record of a key counts."""

    detector: str
    group: str
    topic: str
    partition: int
    shadow: str  # digest

    @property
    def key(self) -> bytes:
        return f"{self.group}/{self.topic}/{self.partition}".encode()

    def value(self) -> bytes:
        return msgspec.json.encode(self)


@dataclass(frozen=True)
class Place:
    """A partition as a group of workers sees it."""

    detector: str
    group: str
    topic: str
    partition: int

    def swap(self, swap: Swap) -> SwapTold:
        """Told again it is the same record."""
        place = (self.detector, self.group, self.topic, self.partition)
        return SwapTold(*place, swap.at, swap.origin or None, swap.to, swap.version, swap.at_ms, swap.missed)

    def beside(self, beside: Beside, at_ms: int) -> BesideTold:
        """at_ms: now."""
        place = (self.detector, self.group, self.topic, self.partition)
        return BesideTold(*place, beside.at, beside.digest, beside.version, at_ms, beside.missed)

    def agreement(self, shadow: str, sums: Agreement) -> AgreementTold:
        """shadow: its digest."""
        return AgreementTold(**asdict(sums), **asdict(self), shadow=shadow)
