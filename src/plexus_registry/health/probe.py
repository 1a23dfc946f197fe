"""One probe: ask the hub at a backend's address for its name, and report each step.

A probe resolves the registered address once and connects to nothing else. All steps together have
one timeout, which limits what a hub that hangs can cost.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections import Counter
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING

import trio

from plexus_registry.health.network import (
    CACHED,
    RECEIVE_BYTES,
    RESOLVERS,
    Connection,
    RealNetwork,
    SocketAddress,
    refusal,
)
from plexus_registry.health.probe_protocol import CredentialError, ProbeProtocol, ProbeProtocolError
from plexus_registry.measures import Histogram
from plexus_registry.rules.backend import FIELDS
from plexus_registry.rules.errors import RegistryError, StartError, shown
from plexus_registry.rules.states import (
    CONNECT,
    INFO,
    NAME,
    RESOLVE,
    UPGRADE,
    Answered,
    Outcome,
    Report,
    Step,
    Unanswered,
    Unchecked,
    Untried,
    is_answer_of,
    milliseconds,
    other_name,
)

if TYPE_CHECKING:
    from pathlib import Path

    from plexus_registry.health.network import Network, Networks
    from plexus_registry.rules.backend import Backend

SHARE_OF_CHECKS = 1 / 8
"""The share of the slots for `registry.check`: many checks of a hub that hangs delay no probe that
is due."""

_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_LOCALHOST = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


class Probe:
    """Probes one backend with each call.

    Attributes:
        slots: Every probe must hold one of them, which limits the number of open sockets.
        check_turns: A probe for `registry.check` must hold one of these as well.
        timeout_seconds: How long one probe may take.
        outcomes: How many probes ended in which outcome.
        seconds: How long they took.
    """

    def __init__(
        self,
        *,
        timeout_seconds: float = 2.0,
        concurrency: int = 64,
        networks: Networks = (),
        certificate_authorities: Path | None = None,
        network: Network | None = None,
    ) -> None:
        """Prepare to probe.

        Args:
            timeout_seconds: How long one probe may take.
            concurrency: The number of slots.
            networks: Which addresses may be probed.
            certificate_authorities: A file with more authorities to trust, for `wss` hubs.
            network: By default the network of this machine.

        Raises:
            StartError: The authorities cannot be read.
        """
        self.slots = trio.Semaphore(concurrency)
        self.check_turns = trio.Semaphore(max(1, int(concurrency * SHARE_OF_CHECKS)))
        self.timeout_seconds = timeout_seconds
        self.outcomes: Counter[str] = Counter()
        self.seconds = Histogram()
        self._networks = networks
        self._network = network or RealNetwork()
        self._tls: ssl.SSLContext | None = None
        self._tls_lock = trio.Lock()
        if certificate_authorities is not None:
            self._tls = _tls_context(certificate_authorities)

    async def __call__(self, backend: Backend, *, any_name: bool = False) -> Report:
        """Probe a backend; failures are in the report and not raised.

        With `any_name`, any name of the hub is right, as for the built-in entry.
        """
        began = trio.current_time()
        report = await self._probe(backend, any_name=any_name)
        self.outcomes[type(report.outcome).__name__.lower()] += 1
        self.seconds.note(trio.current_time() - began)
        return report

    async def _probe(self, backend: Backend, *, any_name: bool) -> Report:
        attempt = _Attempt()
        failure = f"no answer within {self.timeout_seconds:g} s"
        outcome: type[Unanswered | Untried] = Unanswered
        with trio.move_on_after(self.timeout_seconds) as patience:
            try:
                await self._ask(backend, attempt)
            except (_NotAllowed, CredentialError) as error:
                attempt.end(ok=False, detail=str(error))
                wants_credential = isinstance(error, CredentialError)
                reason = f"{attempt.step}: {error}"
                return attempt.report(Unchecked(reason=reason, wants_credential=wants_credential))
            except (OSError, ValueError, RegistryError, trio.BrokenResourceError) as error:
                # ValueError: a host name that cannot be sent to a name server, or be in a
                # certificate.
                failure = _describe(error)
                if isinstance(error, OSError) and error.errno in _SHORTAGES:
                    outcome = Untried
        if patience.cancelled_caught and attempt.is_queued:
            # That other look-ups hang says nothing about this backend.
            failure = f"{RESOLVERS} look-ups of other names hang"
            outcome = Untried
        # A hub that has reported its name is there, whatever goes wrong after that.
        if (answer := attempt.answer) is not None:
            if is_answer_of(backend, answer):
                attempt.end(ok=True, detail=answer.name)
            elif any_name:
                attempt.end(ok=True, detail=f"{shown(answer.name)}; any name is right here")
            else:
                attempt.end(ok=False, detail=other_name(backend, answer))
            return attempt.report(answer)
        attempt.end(ok=False, detail=failure)
        return attempt.report(outcome(reason=f"{attempt.step}: {failure}"))

    async def _ask(self, backend: Backend, attempt: _Attempt) -> None:
        addresses = await self._resolve(backend, attempt)
        attempt.end(ok=True, detail=", ".join(each.host for each in addresses), then=CONNECT)
        stream = await self._connect(backend, addresses)
        try:
            is_plain = backend.protocol == "ws"
            detail = "a TCP connection" if is_plain else "a certificate that is trusted"
            attempt.end(ok=True, detail=detail, then=UPGRADE)
            await _talk(stream, backend, attempt)
        finally:
            if isinstance(stream, Connection):
                stream.close()
            else:
                await trio.aclose_forcefully(stream)

    async def _resolve(self, backend: Backend, attempt: _Attempt) -> list[SocketAddress]:
        host, port, protocol = backend.host, backend.port, backend.protocol
        numeric = _numeric(host, port, protocol)
        if numeric is not None:
            addresses = [numeric]
        elif host.lower().removesuffix(".") == "localhost":
            # It always means this machine, and no name server is asked. Source: RFC 6761, 6.3.
            addresses = [SocketAddress(family, each, port) for family, each in _LOCALHOST]
        else:
            attempt.is_queued = True
            addresses = await self._network.resolve(host, port, attempt.leave_queue)
        if not addresses:
            raise _NotAllowed("the name has no address")
        refusals = [refusal(address.host, self._networks) for address in addresses]
        if None not in refusals:
            raise _NotAllowed(refusals[0])
        allowed = zip(addresses, refusals, strict=True)
        return [address for address, reason in allowed if reason is None]

    async def _connect(self, backend: Backend, addresses: list[SocketAddress]) -> trio.abc.Stream:
        """Connect to the first address that answers, with TLS for `wss`."""
        stream = await self._connect_to_one(addresses)
        if backend.protocol == "ws":
            return stream
        try:
            secured = trio.SSLStream(
                stream,
                self._tls or await self._load_tls(),
                server_hostname=backend.host.partition("%")[0],
                https_compatible=True,
            )
            await secured.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return secured

    async def _load_tls(self) -> ssl.SSLContext:
        """Load the authorities that the system trusts, once: it takes as long as many probes."""
        async with self._tls_lock:
            if self._tls is None:
                self._tls = await trio.to_thread.run_sync(_tls_context, None)
            return self._tls

    async def _connect_to_one(self, addresses: list[SocketAddress]) -> trio.abc.Stream:
        """Try one address after the other; each may use its share of the remaining time."""
        *others, last = addresses
        for left, address in zip(range(len(addresses), 1, -1), others, strict=True):
            remaining = trio.current_effective_deadline() - trio.current_time()
            with trio.move_on_after(max(0.0, remaining) / left), suppress(OSError):
                return await self._network.connect(address)
        return await self._network.connect(last)


class _NotAllowed(Exception):  # noqa: N818 - not an error: the backend must not be probed
    """The address must not be probed; the message says why."""


class _Attempt:
    """The steps of one probe so far.

    Attributes:
        step: The current step.
        answer: The hub's answer, when there is one.
        is_queued: Whether the look-up of its name waits behind others.
    """

    def __init__(self) -> None:
        self.step = RESOLVE
        self.answer: Answered | None = None
        self.is_queued = False
        self._steps: list[Step] = []
        self._began = self._step_began = trio.current_time()
        self._latency_ms = 0.0

    def leave_queue(self) -> None:
        """Record that the look-up of its name begins."""
        self.is_queued = False

    def end(self, *, ok: bool, detail: str, then: str = "") -> None:
        """Record the result of the current step, and begin the next one."""
        moment = trio.current_time()
        ms = milliseconds(moment - self._step_began)
        self._steps.append(Step(step=self.step, ok=ok, ms=ms, detail=detail))
        self._step_began = moment
        self.step = then or self.step

    def note_progress(self, protocol: ProbeProtocol) -> None:
        """Record the steps that the last bytes from the hub completed."""
        if protocol.is_open and self.step == UPGRADE:
            self.end(ok=True, detail="a WebSocket", then=INFO)
        if protocol.name is None:
            return
        if self.answer is None:
            version = "" if protocol.version is None else f", version {protocol.version}"
            self.end(ok=True, detail=f"{protocol.name}{version}", then=NAME)
            self._latency_ms = milliseconds(trio.current_time() - self._began)
        self.answer = Answered(
            name=protocol.name,
            version=protocol.version,
            latency_ms=self._latency_ms,
            schema_hash=protocol.schema_hash,
        )

    def report(self, outcome: Outcome) -> Report:
        return Report(outcome, tuple(self._steps))


async def _talk(stream: trio.abc.Stream, backend: Backend, attempt: _Attempt) -> None:
    protocol = ProbeProtocol(backend.host, backend.port, os.urandom(16))
    await stream.send_all(protocol.request)
    while not protocol.is_over:
        data = await stream.receive_some(RECEIVE_BYTES)
        if not data:
            raise ProbeProtocolError("it hung up")
        try:
            reply = protocol.receive(bytes(data))
        finally:
            attempt.note_progress(protocol)
        if reply:
            await stream.send_all(reply)
    await stream.send_all(protocol.goodbye)


@lru_cache(maxsize=CACHED)
def _numeric(host: str, port: int, protocol: str) -> SocketAddress | None:
    """Check an address, and return it if it is numeric; None means that it needs a look-up."""
    for field, value in (("host", host), ("port", port), ("protocol", protocol)):
        # A database of the original may contain backends that nobody can register here.
        if not FIELDS[field].values.accepts(value):
            raise _NotAllowed(f"the {field} must be {FIELDS[field].values.rule}")
    try:
        version = ip_address(host.partition("%")[0]).version
    except ValueError:
        return None
    return SocketAddress(socket.AF_INET if version == 4 else socket.AF_INET6, host, port)


def _tls_context(authorities: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if authorities is not None:
        try:
            context.load_verify_locations(authorities)
        except (OSError, ssl.SSLError) as error:
            raise StartError(
                f"cannot read the authorities in {authorities}: {error}; --probe-ca names a file"
                " of certificates in PEM form"
            ) from error
    return context


def _describe(error: Exception) -> str:
    """Describe an error in the system's own words, without the exceptions around it."""
    cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) else error
    match cause:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {cause.verify_message}"
        case ssl.SSLError():
            return f"no TLS: {(cause.reason or str(cause)).lower().replace('_', ' ')}"
        case socket.gaierror():
            return (cause.strerror or str(cause)).lower()
        case OSError(errno=int(number)):
            return os.strerror(number).lower()
        case None:
            return "the connection was lost"
        case _:
            return str(cause) or "the connection was lost"
