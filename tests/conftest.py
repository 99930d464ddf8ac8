"""Brokers for the tests: Apache Kafka, real, started once per session; and names that no other test uses."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.live.topics import create_topics

# The same examples on every run and no clock, so what passed passes again; `--hypothesis-profile=search` looks further.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=1_000, deadline=None)
settings.load_profile("same")


# aiokafka leaves a connection behind that it was just opening when its client was stopped; the garbage collector tells
# of it in whichever test comes next.
LEFT_BEHIND = (
    r"ignore:Exception ignored in. <(socket\.socket|function (_SelectorTransport|StreamWriter|AIOKafkaConnection)\.)"
    ":pytest.PytestUnraisableExceptionWarning"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("kafka"):
            item.add_marker(pytest.mark.filterwarnings(LEFT_BEHIND))


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaCluster]:
    """One node of Apache Kafka with a plain and a SASL_SSL listener, shared by the session: don't kill it."""
    with KafkaCluster(nodes=1, secure=True) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def kafka3() -> Iterator[KafkaCluster]:
    """Three nodes of Apache Kafka; a test that kills or pauses one starts or resumes it before it ends."""
    with KafkaCluster(nodes=3) as cluster:
        yield cluster


@pytest.fixture
def unique_name(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Makes names for topics, groups and detectors that no other test and no earlier run has used."""
    test = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:60]
    run = uuid.uuid4().hex[:8]
    return lambda name: f"{name}-{test}-{run}"


@pytest.fixture
def new_topic(kafka: KafkaCluster, unique_name: Callable[[str], str]) -> Callable[..., str]:
    """Creates a topic of its own for the test on the single node, and gives its name."""

    def create(name: str = "topic", partitions: int = 1, *, compacted: bool = False) -> str:
        topic = unique_name(name)
        create_topics(kafka.bootstrap, {topic: partitions}, compacted=[topic] if compacted else [])
        return topic

    return create
