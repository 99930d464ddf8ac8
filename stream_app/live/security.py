"""How clients reach Kafka: brokers, SASL and TLS of the configuration, as the settings that aiokafka takes.

In: `Config`. Out: keyword arguments, the same for every client of the process. Remembers: nothing.

| Java, librdkafka                 | configuration              | aiokafka                      |
|----------------------------------|----------------------------|-------------------------------|
| bootstrap.servers                | brokers                    | bootstrap_servers             |
| security.protocol                | which of sasl, tls is set  | security_protocol             |
| sasl.mechanism                   | security.sasl.mechanism    | sasl_mechanism                |
| sasl.username, sasl.password     | security.sasl.username ... | sasl_plain_username, ..._password |
| ssl.ca.location                  | security.tls.ca            | ssl_context                   |
| ssl.certificate/key.location     | security.tls.certificate, key | ssl_context                |
| ssl.endpoint.identification.algorithm | security.tls.check_hostname | ssl_context             |
"""

from __future__ import annotations

import ssl
from typing import Any

from stream_app.config import Config, Security, Tls
from stream_app.errors import ConfigurationError


def client_settings(config: Config) -> dict[str, Any]:
    """What every aiokafka client is made with. Raises ConfigurationError where a certificate can't be read.

    >>> client_settings(Config(sources=[{"topic": "t"}]))
    {'bootstrap_servers': 'localhost:9092', 'security_protocol': 'PLAINTEXT'}
    """
    return {"bootstrap_servers": config.brokers, **security_settings(config.security)}


def security_settings(security: Security) -> dict[str, Any]:
    """The part of `client_settings` that is not the address."""
    settings: dict[str, Any] = {"security_protocol": _protocol(security)}
    if security.sasl is not None:
        settings |= {
            "sasl_mechanism": security.sasl.mechanism,
            "sasl_plain_username": security.sasl.username,
            "sasl_plain_password": security.sasl.password.get_secret_value(),
        }
    if security.tls is not None:
        settings["ssl_context"] = _context(security.tls)
    return settings


def _protocol(security: Security) -> str:
    if security.sasl is not None:
        return "SASL_SSL" if security.tls is not None else "SASL_PLAINTEXT"
    return "SSL" if security.tls is not None else "PLAINTEXT"


def _context(tls: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(tls.ca) if tls.ca else None)
        if tls.certificate is not None:
            context.load_cert_chain(str(tls.certificate), str(tls.key) if tls.key else None)
    except (OSError, ssl.SSLError) as problem:
        files = ", ".join(str(path) for path in (tls.ca, tls.certificate, tls.key) if path)
        raise ConfigurationError(f"security.tls: {files} can't be used: {problem}") from problem
    # Only the name is let go: the certificate is verified against the authority all the same.
    context.check_hostname = tls.check_hostname
    return context
