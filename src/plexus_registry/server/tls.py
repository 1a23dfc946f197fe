"""TLS: the certificate of the port, and the TLS handshake of a connection."""

from __future__ import annotations

import socket
import ssl
import stat
from typing import TYPE_CHECKING

import trio

from plexus_registry.rules.errors import StartError
from plexus_registry.server.http import PLAIN_ON_TLS

if TYPE_CHECKING:
    from pathlib import Path

    from plexus_registry.server.access_policy import Refusal
    from plexus_registry.settings import Settings

_TLS_HANDSHAKE = b"\x16"
"""The first byte of a TLS connection. Source: RFC 8446, section 5.1."""


class Certificate:
    """The certificate of the port and its key, read from files.

    Attributes:
        context: The TLS context of new connections; open connections keep theirs.
    """

    def __init__(self, cert: Path, key: Path | None = None) -> None:
        """Read the files.

        Args:
            cert: The certificate and the chain above it, in PEM format.
            key: The private key, in PEM format; if None, it is in the file of the certificate.

        Raises:
            StartError: The files cannot be read or used.
        """
        self._cert = cert
        self._key = key or cert
        self.context = self._read()

    def reload(self) -> None:
        """Read the files again, for new connections.

        Raises:
            StartError: The files cannot be read or used; the old context stays.
        """
        self.context = self._read()

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        for path in (self._cert, self._key):
            try:
                if not stat.S_ISREG(path.stat().st_mode):
                    raise StartError(f"cannot read {path}: it is not a plain file")
                path.read_bytes()
            except OSError as error:
                raise StartError(
                    f"cannot read {path}, named by --tls-cert or --tls-key: {error.strerror}"
                ) from error
        try:
            # With an empty password, an encrypted key is an error and not a prompt on the terminal.
            context.load_cert_chain(self._cert, self._key, password="")
        except (ssl.SSLError, ValueError) as error:
            raise StartError(
                f"cannot use the certificate {self._cert} with the key {self._key}:"
                f" {_reason(error)}; name a PEM certificate and its key, without a password"
            ) from error
        return context


def open_certificate(settings: Settings) -> Certificate | None:
    """Read the certificate that the settings name, if they name one.

    Raises:
        StartError: The certificate cannot be used.
    """
    cert = settings.tls_cert
    return None if cert is None else Certificate(cert, settings.tls_key)


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or str(error) or "it is not a PEM file"
    return str(reason).lower().replace("_", " ")


async def start_tls(
    plain: trio.abc.Stream, certificate: Certificate
) -> trio.SSLStream[trio.SocketStream] | Refusal | None:
    """Do the TLS handshake of a new connection.

    Returns:
        The secured stream, a refusal if the peer does not speak TLS, or None if it left.

    Raises:
        trio.BrokenResourceError: The TLS handshake failed.
    """
    if not isinstance(plain, trio.SocketStream):
        raise TypeError("TLS needs a socket")
    try:
        first = await plain.socket.recv(1, socket.MSG_PEEK)
    except OSError:
        return None
    if first != _TLS_HANDSHAKE:
        return PLAIN_ON_TLS if first else None
    stream = trio.SSLStream(plain, certificate.context, server_side=True, https_compatible=True)
    await stream.do_handshake()
    return stream
