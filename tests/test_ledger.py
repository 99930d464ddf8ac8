"""The books: outcomes by offset, safe offsets, and rows as they were."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app import ledger
from stream_app.ledger import DUPLICATE, LATE, READ, SCORED, Accounting, Ledger

ROW = np.dtype([("t", np.int64)])


def offsets(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def rows(*values: int) -> np.ndarray:
    return np.array([(v,) for v in values], ROW)


def slots(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_the_safe_offset_is_the_start_of_the_page_that_holds_what_is_needed() -> None:
    books = Ledger()
    for start in (0, 10, 20):
        books.begin(start, start + 10, start)
    assert books.safe_offset(None) == 30
    assert [books.safe_offset(n) for n in (0, 9, 10, 25)] == [0, 0, 10, 20]


def test_below_an_offset_the_sum_holds_and_the_clock_is_that_of_then() -> None:
    books = Ledger(offset=5, base=Accounting(5, 5), clock_us=7)
    books.begin(5, 8, 70)
    books.count(READ, offsets(5, 6, 7))
    books.count(LATE, offsets(5))
    books.begin(8, 9, 80)
    books.count(READ, offsets(8))
    books.count(SCORED, offsets(6, 7))
    assert books.below(8) == (Accounting(8, 7, 1), 70)
    assert books.below(5) == (Accounting(5, 5), 7)
    assert books.accounting().open == 1


def test_settling_forgets_pages_and_keeps_the_sums() -> None:
    books = Ledger()
    for start in (0, 1, 2):
        books.begin(start, start + 1, start)
        books.count(READ, offsets(start))
        books.count(DUPLICATE, offsets(start))
    total = books.accounting()
    books.settle(2)
    assert books.accounting() == total
    assert books.safe_offset(2) == 2


@given(
    st.lists(st.lists(st.integers(0, 5), max_size=4, unique=True), min_size=1, max_size=40),
    st.integers(1, 8),
    st.data(),
)
def test_rows_at_an_offset_are_those_of_a_full_copy(
    batches: list[list[int]], max_pages: int, data: st.DataObject
) -> None:
    """However pages are merged, the rows at each safe offset are those a copy taken then would show."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "MAX_PAGES", max_pages)
        books, state, copies = Ledger(), rows(0, 0, 0, 0, 0, 0), {}
        for offset, touched in enumerate(batches):
            copies[offset] = state.copy()
            books.begin(offset, offset + 1, offset)
            books.note(slots(*touched), state[touched].copy())
            state["t"][touched] = offset + 1
        needed = data.draw(st.integers(0, len(batches) - 1))
        safe = books.safe_offset(needed)
        assert safe <= needed
        everyone = slots(0, 1, 2, 3, 4, 5)
        assert books.rows_at(safe, everyone, state).tolist() == copies[safe].tolist()
        assert set(books.touched(safe, len(batches))) == {s for b in batches[safe:] for s in b}
