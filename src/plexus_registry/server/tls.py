"""The certificate of the port, which can be exchanged while connections are open."""

from __future__ import annotations

import ssl
import stat
from typing import TYPE_CHECKING

from plexus_registry.rules.errors import StartError

if TYPE_CHECKING:
    from pathlib import Path


class Certificate:
    """A certificate and its key, read from files.

    Attributes:
        context: What the next connection is secured with; open ones keep theirs.
    """

    def __init__(self, cert: Path, key: Path | None = None) -> None:
        """Read the files.

        Args:
            cert: The certificate, and the chain above it, as PEM.
            key: Its private key; None where that is in the same file.

        Raises:
            StartError: They cannot be used.
        """
        self._cert = cert
        self._key = key or cert
        self.context = self._read()

    def reload(self) -> None:
        """Read the files again, and use what they hold for new connections.

        Raises:
            StartError: They cannot be used; what was read before stays.
        """
        self.context = self._read()

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        for path in (self._cert, self._key):
            try:
                if not stat.S_ISREG(path.stat().st_mode):
                    raise StartError(f"cannot read {path}: it is no plain file")
                path.read_bytes()
            except OSError as error:
                raise StartError(
                    f"cannot read {path}, named by --tls-cert or --tls-key: {error.strerror}"
                ) from error
        try:
            # A key that wants a password is refused instead of asking a terminal for it.
            context.load_cert_chain(self._cert, self._key, password="")
        except (ssl.SSLError, ValueError) as error:
            raise StartError(
                f"cannot use the certificate {self._cert} with the key {self._key}:"
                f" {_reason(error)}; name a PEM certificate and its key, without a password"
            ) from error
        return context


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or str(error) or "it is no PEM file"
    return str(reason).lower().replace("_", " ")
