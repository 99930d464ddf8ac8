"""Everything that can go wrong in a way the world can cause, as one tree.

    TailraceError                exit 1   the root; a message of one or two sentences that says what to do
    ├── UsageError               exit 2   the command line asks for something that can't be
    ├── ConfigurationError       exit 3   a setting, a topic or a file is not as it must be
    │   └── BundleRefused        exit 3   a bundle failed verification and was not opened
    ├── BrokerUnreachable        exit 4   Kafka does not answer, or refuses us
    │   └── StoreUnreachable     exit 4   the store that bundles lie in does not answer
    ├── CheckFailed              exit 5   a gate, a check or a benchmark's floor was missed
    └── Stuck                    exit 1   the watchdog found no progress

What only a bug can break is an `assert`. What one record can break is no error at all: it is a dead letter
(`stream_app.records.decoder.Reason`).
"""

from __future__ import annotations

# Why a bundle is refused: the pointer's signature or place, what was fetched, what is in it.
REFUSALS = (
    "unsigned",
    "signature",
    "downgrade",
    "location",
    "size",
    "missing",
    "digest",
    "schema",
    "content",
    "golden",
)


class TailraceError(Exception):
    """The root. What to do: read the message; it names what was expected and what came."""

    exit_code = 1


class UsageError(TailraceError):
    """What to do: see the command's --help; the message names the option."""

    exit_code = 2


class ConfigurationError(TailraceError):
    """What to do: correct the file, topic or setting that the message names."""

    exit_code = 3


class BundleRefused(ConfigurationError):
    """What to do: publish the bundle again from its source; this copy can't be trusted.

    `reason` is one of `REFUSALS`, for a metric's label.
    """

    def __init__(self, message: str, reason: str = "content") -> None:
        super().__init__(message)
        assert reason in REFUSALS, reason
        self.reason = reason


class BrokerUnreachable(TailraceError):
    """What to do: check `brokers`, the network and the credentials; start one by `tailrace broker start`."""

    exit_code = 4


class StoreUnreachable(BrokerUnreachable):
    """What to do: check `registry.store`, the network and the credentials of the store."""


class CheckFailed(TailraceError):
    """What to do: the message holds the figure and the floor; nothing was published."""

    exit_code = 5


class Stuck(TailraceError):
    """What to do: restart the worker (a supervisor does); nothing is lost, since nothing was committed."""
