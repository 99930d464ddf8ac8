"""Traces: the W3C trace context of a source record goes on with the alert that it was the last record of.

In: records as they are read, and what was committed. Out: headers for alerts. Remembers: the two headers of records
that are not below the commit: no window that is open needs those that are.

    a record's headers      traceparent, tracestate
    its offset              = inputs[0].last_offset of an alert, which then has the same two

After a start records are read from the commit again, so that what was remembered comes back. Where no record has
headers nothing is done per record that decoding it does not do.
"""

from __future__ import annotations

from itertools import islice

from stream_app.alerts.alert import Alert
from stream_app.samples import Headers, RawBatch

NAMES = ("traceparent", "tracestate")  # in Kafka as they are spelt here: its headers' names are case-sensitive
BYTES_MAX = 512  # of each: what the recommendation asks everybody to pass on
KEPT = 100_000  # records per partition, at most some 35 MB; what is older is forgotten


class Traces:
    """Of one partition."""

    def __init__(self) -> None:
        self._of: dict[int, Headers] = {}  # by offset, ascending

    def __len__(self) -> int:
        return len(self._of)

    def note(self, records: RawBatch) -> None:
        """Records as they are read, again or for the first time."""
        if not records.has_headers:
            return
        for offset, headers in zip(records.offsets.tolist(), records.headers, strict=True):
            if headers and (found := _context(headers)):
                self._of[offset] = found
        for offset in list(islice(self._of, max(0, len(self._of) - KEPT))):
            del self._of[offset]

    def of(self, alert: Alert) -> Headers:
        """What its last record had; nothing where no open window has held that record any more."""
        return self._of.get(alert.inputs[0].last_offset, ())

    def forget(self, below: int) -> None:
        """The commit has come so far."""
        gone = []
        for offset in self._of:
            if offset >= below:
                break
            gone.append(offset)
        for offset in gone:
            del self._of[offset]


def _context(headers: Headers) -> Headers:
    """The two headers; the second says nothing without the first."""
    found = {name: value for name, value in headers if name in NAMES and value and len(value) <= BYTES_MAX}
    return [(name, found[name]) for name in NAMES if name in found] if NAMES[0] in found else ()
