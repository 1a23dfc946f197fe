"""TLS on the port, with certificates of an authority that only the test trusts."""

from __future__ import annotations

import shutil
import signal
import ssl
import warnings
from typing import TYPE_CHECKING

import pytest
import trio
import trustme

from tests.e2e.harness import dial, eventually, run_command, running_registry, with_prelude
from tests.e2e.raw import wire_to

if TYPE_CHECKING:
    from pathlib import Path


class Authority:
    """Makes certificates for `localhost`, and the options that name them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        self.renew()
        self.trust = ssl.create_default_context()
        self.ca.configure_trust(self.trust)
        self.ca.cert_pem.write_to_path(str(folder / "ca.pem"))

    def renew(self) -> None:
        issued = self.ca.issue_cert("localhost", "127.0.0.1")
        issued.private_key_pem.write_to_path(str(self.key))
        for number, part in enumerate(issued.cert_chain_pems):
            part.write_to_path(str(self.cert), append=number > 0)

    @property
    def options(self) -> tuple[str, ...]:
        return (f"--tls-cert={self.cert}", f"--tls-key={self.key}")

    async def serial(self, port: int) -> int:
        """Find out which certificate a new connection gets."""
        async with wire_to(port) as wire:
            secured = trio.SSLStream(wire.stream, self.trust, server_hostname="localhost")
            await secured.do_handshake()
            shown = secured.getpeercert()
        return int(shown["serialNumber"], 16)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_the_port_speaks_wss_and_https(tmp_path: Path, authority: Authority) -> None:
    with trio.fail_after(60):
        async with running_registry(tmp_path, *authority.options) as server:
            assert server.url.startswith("wss://127.0.0.1:")
            async with dial(server.url, tls=authority.trust) as peer:
                await peer.call("registry.register", name="a", host="h", port=1)
                assert "a" in await peer.names()
            async with wire_to(server.port) as wire:
                wire.stream = trio.SSLStream(  # type: ignore[assignment]  # it is one, too
                    wire.stream, authority.trust, server_hostname="localhost", https_compatible=True
                )
                assert (await wire.ask("/healthz")).status == 200
                assert "websocat wss://" in (await wire.ask("/")).body
                assert (await wire.ask("/", Host="evil.example")).status == 421
                with trio.fail_after(0.5):
                    assert await wire.read_to_the_end() == b""
            env = {"SSL_CERT_FILE": str(tmp_path / "ca.pem")}
            done = await run_command("get", "a", f"--url={server.url}", env=env)
            assert done.returncode == 0, done.stderr
            assert (await run_command("get", "a", f"--url={server.url}")).returncode == 3
            assert await server.stop() == 0
        assert "Traceback" not in server.log


async def test_what_speaks_no_tls_is_told_at_once(tmp_path: Path, authority: Authority) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, *authority.options) as server:
            for sent in (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x80\x2e\x01", b"\x00"):
                async with wire_to(server.port) as wire:
                    await wire.send(sent)
                    with trio.fail_after(8):
                        assert b"This port speaks TLS" in await wire.read_to_the_end()
            async with wire_to(server.port) as wire:
                await wire.send(b"\x16\x03\x01\x00\x05hello")
                with trio.fail_after(8):
                    await wire.read_to_the_end()
            async with dial(server.url, tls=authority.trust) as peer:
                await peer.names()
            assert await server.stop() == 0
        assert "Traceback" not in server.log


async def test_a_peer_that_stops_in_the_handshake_is_cut_off(
    tmp_path: Path, authority: Authority
) -> None:
    command = with_prelude("import plexus_registry.server.handshake as d; d.HEAD_SECONDS = 0.3")
    with trio.fail_after(30):
        async with running_registry(tmp_path, *authority.options, command=command) as server:
            for sent in (b"", b"\x16\x03\x01"):
                async with wire_to(server.port) as wire:
                    await wire.send(sent)
                    with trio.fail_after(8):
                        assert await wire.read_to_the_end() == b""


@pytest.mark.parametrize(
    ("version", "works"), [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)]
)
async def test_old_tls_is_refused(
    tmp_path: Path, authority: Authority, version: ssl.TLSVersion, works: bool
) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = old.maximum_version = version
    authority.ca.configure_trust(old)
    with trio.fail_after(30):
        async with running_registry(tmp_path, *authority.options) as server:
            async with wire_to(server.port) as wire:
                secured = trio.SSLStream(wire.stream, old, server_hostname="localhost")
                try:
                    await secured.do_handshake()
                except trio.BrokenResourceError:
                    assert not works
                else:
                    assert works


async def test_a_renewed_certificate_is_taken_without_dropping_anybody(
    tmp_path: Path, authority: Authority
) -> None:
    with trio.fail_after(60):
        async with running_registry(tmp_path, *authority.options) as server:
            first = await authority.serial(server.port)
            async with dial(server.url, tls=authority.trust) as peer:
                authority.renew()
                (tmp_path / "backends.toml").write_text(
                    '[[backend]]\nname = "of-file"\nhost = "h"\nport = 1\n'
                )
                server.process.send_signal(signal.SIGHUP)
                await eventually(lambda: "certificate read again" in server.log)
                await eventually(lambda: "config file read again" in server.log)
                second = await authority.serial(server.port)
                assert second != first
                assert "of-file" in await peer.names()
                authority.key.write_text("no key")
                server.process.send_signal(signal.SIGHUP)
                await eventually(lambda: "certificate kept as it was" in server.log)
                assert await authority.serial(server.port) == second
                await peer.names()
            assert await server.stop() == 0


async def test_sighup_reads_the_config_file(tmp_path: Path) -> None:
    config = tmp_path / "backends.toml"
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--poll-interval=1000") as server:
            config.write_text('[[backend]]\nname = "of-file"\nhost = "h"\nport = 1\n')
            server.process.send_signal(signal.SIGHUP)
            await eventually(lambda: "config file read again: 1 backends" in server.log)
            async with dial(server.url) as peer:
                assert "of-file" in await peer.names()
                config.write_text("[[backend")
                server.process.send_signal(signal.SIGHUP)
                await eventually(lambda: "Config file is invalid" in server.log)
                assert "of-file" in await peer.names()


@pytest.mark.parametrize("broken", ["missing", "no PEM", "no key", "other key", "password"])
async def test_a_certificate_that_cannot_be_used_is_said_at_the_start(
    tmp_path: Path, authority: Authority, broken: str
) -> None:
    match broken:
        case "missing":
            authority.cert.unlink()
        case "no PEM":
            authority.cert.write_text("hello")
        case "no key":
            authority.key.write_text("hello")
        case "other key":
            kept = authority.cert.read_bytes()
            authority.renew()
            authority.cert.write_bytes(kept)
        case "password" if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        case "password":
            encrypt = ["openssl", "ec", "-aes256", "-passout", "pass:x", "-in", str(authority.key)]
            made = await trio.run_process(encrypt, capture_stdout=True, capture_stderr=True)
            authority.key.write_bytes(made.stdout)
    config = tmp_path / "c.toml"
    config.touch()  # one that is named and does not exist is warned about
    paths = (f"--db-path={tmp_path / 'r.db'}", f"--config={config}")
    with trio.fail_after(30):
        done = await run_command("--port=0", *paths, *authority.options)
    assert done.returncode == 1
    text = done.stderr.decode()
    assert str(tmp_path) in text
    assert text.count("\n") == 1
