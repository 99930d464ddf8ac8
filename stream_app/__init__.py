"""Tailrace: streaming anomaly detection on Kafka."""

__version__ = "0.1.0"
