"""One probe: ask the hub at a backend's address who it is, and report step by step.

The address that is registered is resolved once and connected to; nothing else ever is. All steps
together have one timeout, so that a hub that hangs costs no more than that.
"""

from __future__ import annotations

import os
import socket
import ssl
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING

import trio

from plexus_registry.health.allowed_networks import Networks
from plexus_registry.health.network import (
    RECEIVE_BYTES,
    RESOLVERS,
    Connection,
    RealNetwork,
    SocketAddress,
    is_shortage,
    too_late,
    why,
)
from plexus_registry.health.probe_protocol import CredentialError, ProbeProtocol, ProbeProtocolError
from plexus_registry.rules.backend import FIELDS
from plexus_registry.rules.errors import RegistryError, StartError, shown
from plexus_registry.rules.probe_results import (
    CONNECT,
    INFO,
    NAME,
    RESOLVE,
    UPGRADE,
    Answered,
    Outcome,
    Report,
    Unanswered,
    Unchecked,
    Untried,
    is_answer_of,
    milliseconds,
    other_name,
)

if TYPE_CHECKING:
    from pathlib import Path

    from plexus_registry.health.network import Network
    from plexus_registry.rules.backend import Backend

CACHED = 16 * 1024
SHARE_OF_CHECKS = 1 / 8
"""So much of the slots calls may use: a flood of them on a hub that hangs delays no round."""

_LOCALHOST = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


class Probe:
    """Probes backends, each call one of them.

    Attributes:
        slots: Whoever probes holds one of them, so that few sockets are open at once.
        check_turns: Whoever probes because a call asks for it holds one of these besides, so that
            calls leave most slots to the rounds.
        timeout_seconds: How long one probe may take.
    """

    def __init__(
        self,
        *,
        timeout_seconds: float = 2.0,
        concurrency: int = 64,
        networks: Networks | None = None,
        certificate_authorities: Path | None = None,
        network: Network | None = None,
    ) -> None:
        """Prepare it.

        Args:
            timeout_seconds: How long one probe may take.
            concurrency: How many slots there are.
            networks: Which addresses may be probed.
            certificate_authorities: A file with more authorities that `wss` hubs may rely on.
            network: How hubs are reached.

        Raises:
            StartError: The authorities cannot be read.
        """
        self.slots = trio.Semaphore(concurrency)
        self.check_turns = trio.Semaphore(max(1, int(concurrency * SHARE_OF_CHECKS)))
        self.timeout_seconds = timeout_seconds
        self._networks = networks or Networks()
        self._network = network or RealNetwork()
        self._is_real = isinstance(self._network, RealNetwork)
        self._tls: ssl.SSLContext | None = None
        self._tls_lock = trio.Lock()
        if certificate_authorities is not None:
            self._tls = _tls_context(certificate_authorities)

    def direct_address(self, backend: Backend) -> SocketAddress | None:
        """Give the address of a backend that a bare socket of this machine reaches.

        Returns:
            None for a host name, for `wss`, and for whoever may not be asked: a call of the probe
            knows what to do with them.
        """
        if backend.protocol != "ws" or "%" in backend.host or not self._is_real:
            return None
        try:
            address = _numeric(backend.host, backend.port, backend.protocol)
        except _Refusal:
            return None
        if address is None or self._networks.refusal(address.host) is not None:
            return None
        return address

    async def __call__(self, backend: Backend, *, any_name: bool = False) -> Report:
        """Probe a backend; what goes wrong is in the report.

        Args:
            backend: The backend.
            any_name: Whether a hub of any name is right, as for the built-in entry.
        """
        attempt = _Attempt()
        failure = too_late(self.timeout_seconds)
        outcome: type[Unanswered | Untried] = Unanswered
        with trio.move_on_after(self.timeout_seconds) as patience:
            try:
                await self._ask(backend, attempt)
            except _Refusal as refusal:
                attempt.end(ok=False, detail=str(refusal))
                return attempt.report(Unchecked(reason=f"{attempt.step}: {refusal}"))
            except CredentialError as wanted:
                attempt.end(ok=False, detail=str(wanted))
                reason = f"{attempt.step}: {wanted}"
                return attempt.report(Unchecked(reason=reason, wants_credential=True))
            except (OSError, ValueError, RegistryError, trio.BrokenResourceError) as error:
                # A ValueError is what a name gets that no name server or certificate takes.
                failure = why(error)
                outcome = Untried if is_shortage(error) else Unanswered
        if patience.cancelled_caught and attempt.is_queued:
            # Names whose name server hangs must not speak against the others.
            failure = f"{RESOLVERS} look-ups of other names hang"
            outcome = Untried
        # Whatever goes wrong once the hub said who it is, it is there.
        if attempt.answer is not None:
            return attempt.report(attempt.judge(backend, attempt.answer, any_name=any_name))
        attempt.end(ok=False, detail=failure)
        return attempt.report(outcome(reason=f"{attempt.step}: {failure}"))

    async def _ask(self, backend: Backend, attempt: _Attempt) -> None:
        addresses = await self._resolve(backend, attempt)
        attempt.end(ok=True, detail=", ".join(each.host for each in addresses), then=CONNECT)
        stream = await self._connect(backend, addresses)
        try:
            attempt.end(ok=True, detail=_connected(backend), then=UPGRADE)
            await _converse(stream, backend, attempt)
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
            # No name server is needed for it, nor has any a say in it. Source: RFC 6761, 6.3.
            addresses = [SocketAddress(family, each, port) for family, each in _LOCALHOST]
        else:
            attempt.is_queued = True
            addresses = await self._network.resolve(host, port, attempt.leave_queue)
        refusals = [self._networks.refusal(address.host) for address in addresses]
        if None in refusals:
            return [each for each, why in zip(addresses, refusals, strict=True) if why is None]
        raise _Refusal(next(filter(None, refusals), "the name has no address"))

    async def _connect(self, backend: Backend, addresses: list[SocketAddress]) -> trio.abc.Stream:
        """Connect to the first address that answers; each gets its part of the time."""
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
        """Load what the system trusts, once; it takes as long as hundreds of calls."""
        async with self._tls_lock:
            if self._tls is None:
                self._tls = await trio.to_thread.run_sync(_tls_context, None)
            return self._tls

    async def _connect_to_one(self, addresses: list[SocketAddress]) -> trio.abc.Stream:
        *others, last = addresses
        for left, address in zip(range(len(addresses), 1, -1), others, strict=True):
            remaining = trio.current_effective_deadline() - trio.current_time()
            with trio.move_on_after(max(0.0, remaining) / left), suppress(OSError):
                return await self._network.connect(address)
        return await self._network.connect(last)


class _Refusal(Exception):  # noqa: N818 - no error: the backend is not to be asked
    """Why a backend is not asked."""


class _Attempt:
    """The steps of one probe as they are made.

    Attributes:
        step: The step in hand.
        answer: What the hub answered, once it did.
        is_queued: Whether its look-up waits for those of other names.
    """

    def __init__(self) -> None:
        self.step = RESOLVE
        self.answer: Answered | None = None
        self.is_queued = False
        self._steps: list[tuple[str, bool, float, str]] = []
        self._began = self._step_began = trio.current_time()
        self._latency_ms = 0.0

    def leave_queue(self) -> None:
        """Note that its look-up begins."""
        self.is_queued = False

    def end(self, *, ok: bool, detail: str, then: str = "") -> None:
        """Note how the step in hand came out, and begin the one after it."""
        moment = trio.current_time()
        self._steps.append((self.step, ok, moment - self._step_began, detail))
        self._step_began = moment
        self.step = then or self.step

    def answered(self, protocol: ProbeProtocol) -> None:
        """Note what the hub says of itself, as soon as it does."""
        info = protocol.info
        if info is None:
            return
        if self.answer is None:
            version = "" if info.version is None else f", version {info.version}"
            self.end(ok=True, detail=f"{info.name}{version}", then=NAME)
            self._latency_ms = milliseconds(trio.current_time() - self._began)
        self.answer = protocol.answer(self._latency_ms)

    def judge(self, backend: Backend, answer: Answered, *, any_name: bool) -> Answered:
        """Compare the name that the hub said, which is the last step."""
        if is_answer_of(backend, answer):
            self.end(ok=True, detail=answer.name)
        elif any_name:
            self.end(ok=True, detail=f"{shown(answer.name)}; any name is right here")
        else:
            self.end(ok=False, detail=other_name(backend, answer))
        return answer

    def report(self, outcome: Outcome) -> Report:
        return Report(outcome, self._steps)


async def _converse(stream: trio.abc.Stream, backend: Backend, attempt: _Attempt) -> None:
    protocol = ProbeProtocol(backend.host, backend.port, os.urandom(16))
    await stream.send_all(protocol.request)
    while not protocol.is_over:
        data = await stream.receive_some(RECEIVE_BYTES)
        if not data:
            raise ProbeProtocolError("it hung up")
        try:
            reply = protocol.receive(bytes(data))
        finally:
            if protocol.is_open and attempt.step == UPGRADE:
                attempt.end(ok=True, detail="a WebSocket", then=INFO)
            attempt.answered(protocol)
        if reply:
            await stream.send_all(reply)
    await stream.send_all(protocol.goodbye)


def _connected(backend: Backend) -> str:
    return "a certificate that is trusted" if backend.protocol == "wss" else "a TCP connection"


@lru_cache(maxsize=CACHED)
def _numeric(host: str, port: int, protocol: str) -> SocketAddress | None:
    """Check an address, and give it where it needs no look-up."""
    for field, value in (("host", host), ("port", port), ("protocol", protocol)):
        # A database of the original may hold what nobody could register.
        if not FIELDS[field].values.accepts(value):
            raise _Refusal(f"the {field} must be {FIELDS[field].values.rule}")
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
