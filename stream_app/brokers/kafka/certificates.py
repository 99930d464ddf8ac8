"""A certificate authority of our own and a broker's certificate, for a local listener with TLS.

In: a directory. Out: PEM files in it: `ca.pem` (what a client trusts) and `broker.pem` (key and certificate). They are
for tests on the loopback; nothing else should trust them.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

# Long enough for any test run, short enough that a forgotten key is soon worth nothing.
_VALID_DAYS = 30
# The clock of a container may lag its host's by a little; a certificate from the future would be refused.
_BACKDATED_HOURS = 1


@dataclass(frozen=True)
class CertificateFiles:
    """Paths of PEM files: the authority's certificate, and the broker's key followed by its certificate."""

    authority: Path
    broker: Path


def write_certificates(directory: Path) -> CertificateFiles:
    """Makes an authority, signs a certificate for 127.0.0.1 and localhost by it, and gives the files."""
    directory.mkdir(parents=True, exist_ok=True)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _authority_certificate(authority_key)
    broker_key = ec.generate_private_key(ec.SECP256R1())
    broker = _broker_certificate(broker_key, authority_key, authority)
    files = CertificateFiles(directory / "ca.pem", directory / "broker.pem")
    files.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    _write_secret(files.broker, _private_pem(broker_key) + broker.public_bytes(serialization.Encoding.PEM))
    return files


def _authority_certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = _name("tailrace local authority")
    builder = _unsigned(name, name, key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    return builder.sign(key, hashes.SHA256())


def _broker_certificate(
    key: ec.EllipticCurvePrivateKey, authority_key: ec.EllipticCurvePrivateKey, authority: x509.Certificate
) -> x509.Certificate:
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    builder = _unsigned(_name("localhost"), authority.subject, key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(names, critical=False)
    builder = builder.add_extension(issuer, critical=False)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    return builder.sign(authority_key, hashes.SHA256())


def _unsigned(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=_BACKDATED_HOURS))
        .not_valid_after(now + datetime.timedelta(days=_VALID_DAYS))
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    # Kafka reads PKCS#8 only.
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_secret(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
