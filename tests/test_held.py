"""A partition's turns: with which bundle it begins, from when another may take over, what is counted when it does."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata
from plain_detector import PlainDetector
from test_pipeline import CONFIG, NEXT, SHORT, batch, normal

from stream_app.checkpoint import Books, Swap, metadata, read_books
from stream_app.ledger import Accounting
from stream_app.live.fetching import BATCHES_AHEAD
from stream_app.live.following import Model, Models
from stream_app.live.held import Held, Hosting, Start, start_of
from stream_app.live.leases import Lease
from stream_app.shadow import Beside
from stream_app.stamps import Recovered

TP = TopicPartition("s", 0)
LEASE = Lease(1, "m")
OLD, NEW = Model(SHORT, 1, "pump@1"), Model(NEXT, 2, "pump@2")


class Two(Models):
    """The models topic as it is when both are known and the new one is live."""

    follows = True

    async def of(self, digest: str) -> Model:
        return {model.digest: model for model in (OLD, NEW)}.get(digest, self.live)


def hosting(states: dict[bytes, bytes]) -> Hosting:
    return Hosting(CONFIG, Two(NEW), None, None, lambda tp: Recovered(states), None, None)  # type: ignore[arg-type]


def started(commit: OffsetAndMetadata, end: int = 100) -> Start:
    return asyncio.run(start_of(Two(NEW), commit, LEASE, end))


def test_the_choice_of_the_first_bundle_is_to_be_committed_and_keeps_the_books() -> None:
    before = Accounting(5, 3, 1, 1, 0)
    start = started(OffsetAndMetadata(7, metadata(Books(before, 42), before, 7)))
    assert start.model == NEW
    assert start.told == 7, "nothing was said of what follows"
    assert start.books is not None
    assert (start.books.accounting, start.books.clock_us) == (before, 42)
    assert start.books.swap is not None
    assert (start.books.swap.to, start.books.swap.at, start.books.swap.origin) == (NEXT.digest, 7, "")


def test_a_crash_before_the_swap_is_committed_leaves_the_old_bundle_until_all_that_was_told_is_read_again() -> None:
    start = started(OffsetAndMetadata(7, metadata(Books(bundle=SHORT.digest))), end=100)
    assert start.model == OLD
    held = Held.begin(hosting({}), TP, start)
    held.position = 99
    assert held.swap_to(NEW) is None
    held.position = 100
    swap = held.swap_to(NEW)
    assert swap is not None
    assert (swap.to, swap.at, swap.origin, swap.version) == (NEXT.digest, 100, SHORT.digest, 2)


def test_a_crash_after_the_swap_is_committed_starts_with_the_new_bundle_and_tells_it_again_in_the_same_words() -> None:
    swap = Swap(NEXT.digest, 2, 30, 1_700_000_000_000, SHORT.digest)
    start = started(OffsetAndMetadata(7, metadata(Books(bundle=SHORT.digest, swap=swap))))
    assert start.model == NEW
    assert start.books is not None
    assert start.books.swap == swap


def test_a_bundle_that_is_not_to_be_had_any_more_is_followed_by_the_live_one() -> None:
    assert started(OffsetAndMetadata(7, metadata(Books(bundle="gone")))).model == NEW


def test_what_is_read_again_after_a_swap_is_counted_once_and_batches_on_their_way_are_expected() -> None:
    states: dict[bytes, bytes] = {}
    records = normal(400)
    held = Held.begin(hosting(states), TP, Start(OffsetAndMetadata(0, ""), LEASE, OLD, 0))
    held.pipeline.step(batch(records[:300], 0))
    held.position = 300
    _, counted = held.count()
    point = held.pipeline.checkpoint(held.swap_to(NEW))
    held.committed = OffsetAndMetadata(point.offset, point.metadata)
    new = held.successor(hosting(states), TP, NEW)
    assert new.position < 300
    assert new.stale == BATCHES_AHEAD
    assert new.touched, "the next commit says the swap no more"
    assert new.swap_to(OLD) is None, "first what was told is read again"
    new.pipeline.step(batch(records[new.position : 300], new.position))
    assert new.count() == (counted, counted)
    new.pipeline.step(batch(records[300:], 300))
    before, after = new.count()
    assert before == counted
    assert after.samples_read == 400
    told = read_books(new.pipeline.checkpoint().metadata)
    assert told is not None
    assert (told.bundle, told.swap) == (NEXT.digest, None)


def test_versions_are_told_apart_without_looking_into_their_bundles() -> None:
    assert replace(OLD, detector=PlainDetector(digest="another object")) == OLD
    assert OLD != NEW


def test_what_a_shadow_missed_is_told_by_whoever_ends_it_or_goes_on_with_it_after_a_crash() -> None:
    start = Start(OffsetAndMetadata(0, metadata(Books(bundle=SHORT.digest, missed=7))), LEASE, OLD, 0)
    held = Held.begin(hosting({}), TP, start)
    assert held.set_shadow(NEW) == Beside(0, NEXT.digest, 2, missed=7)
    assert held.set_shadow(None) == Beside(0, None, missed=7), "told in place of the one before"
    held.set_shadow(NEW)
    held.pipeline.step(batch(normal(300), 0))
    held.position = 300
    assert held.pipeline.shadow is not None
    waiting = held.pipeline.shadow.waiting
    assert waiting > 0
    told = read_books(held.pipeline.checkpoint().metadata)
    assert told is not None
    assert told.missed == waiting, "in case of a crash"
    assert held.set_shadow(None) == Beside(300, None, missed=waiting)
