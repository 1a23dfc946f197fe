"""The metrics: what is counted, what Prometheus makes of them, and the examples of the manual."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from plexus_registry import __version__
from tests.e2e.harness import dial, eventually, running_registry
from tests.e2e.pages import blocks, cells, commands, page, sections
from tests.e2e.prometheus import PROMTOOL, get, needs_prometheus, running_prometheus
from tests.e2e.raw import WebSocket, wire_to

if TYPE_CHECKING:
    from pathlib import Path

TOKEN, READ_TOKEN = "s3cret-s3cret-s3cret", "l00k-l00k-l00k-l00k"
PREFIX = "plexus_registry_"


class Scraped:
    """What one request for the metrics answered."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.types = {each.name: each.type for each in text_string_to_metric_families(text)}
        self._samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        """The value of a sample; 0 if there is none."""
        return self._samples.get((PREFIX + name, tuple(sorted(labels.items()))), 0)


async def scrape(wire: WebSocket) -> Scraped:
    reply = await wire.ask("/metrics")
    assert reply.status == 200
    assert reply.fields["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Scraped(reply.body)


async def test_what_happens_is_counted(tmp_path: Path) -> None:
    config = tmp_path / "backends.toml"
    with trio.fail_after(60):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with dial(server.url) as peer, wire_to(server.port) as wire:
                before = await scrape(wire)
                assert before("build_info", version=__version__) == 1
                assert before("config_last_reload_success") == 1
                assert before("connections") == 2
                await peer.call("registry.register", name="a", host="127.0.0.1", port=1)
                await peer.call("registry.update", name="a", port=2)
                await peer.call("registry.get", name="a")
                await peer.error("registry.update", name="nobody", port=2)
                await peer.error("registry.get", nam="a")
                await peer.error("registry.nothing")
                await peer.exchange("no json")
                await peer.exchange(
                    '[{"jsonrpc":"2.0","id":1,"method":"registry.get","params":{"name":"a"}}]'
                )
                await peer.call("registry.check", name="a")
                await peer.post("registry.watch")
                async with wire_to(server.port) as other:
                    assert (await other.ask("/", Host="evil.example")).status == 421

                async def has_watch() -> bool:
                    return (await scrape(wire))("watchers") == 1

                await eventually(has_watch)
                now = await scrape(wire)
                states = [
                    now("backends", state=each, source="manual") for each in ("unknown", "down")
                ]
                assert sum(states) == 1
                assert now("changes_total", type="backend_registered", origin="call") == 1
                assert now("changes_total", type="backend_updated", origin="call") == 1
                assert now("commit_seconds_count") >= 2
                assert now("commit_group_size_sum") >= now("commit_group_size_count") >= 2
                for method, outcome, count in (
                    ("registry.register", "ok", 1),
                    ("registry.get", "ok", 2),
                    ("registry.get", "invalid_params", 1),
                    ("registry.update", "ok", 1),
                    ("registry.update", "not_found", 1),
                    ("registry.watch", "ok", 1),
                    ("unknown", "method_not_found", 1),
                    ("unknown", "parse_error", 1),
                ):
                    assert now("requests_total", method=method, outcome=outcome) == count
                assert now("request_seconds_count", method="registry.get") == 3
                assert now("request_seconds_bucket", method="registry.get", le="+Inf") == 3
                assert now("refused_total", reason="host") == 1
                assert now("watch_lag_revisions") == 0
                assert now("unread_bytes") == 0
                assert now("probes_total", outcome="unanswered") >= 1
                assert now("probe_seconds_count") >= 1
                assert now("network_suspect") == 0
                assert now("storage_failing") == 0
                config.write_text("nonsense")

                async def is_invalid() -> bool:
                    return (await scrape(wire))("config_last_reload_success") == 0

                await eventually(is_invalid)
                config.write_text("")

                async def is_loaded() -> bool:
                    now = await scrape(wire)
                    at = now("config_last_reload_timestamp_seconds")
                    return now("config_last_reload_success") == 1 and at > 0

                await eventually(is_loaded)

                async def has_lag() -> bool:
                    return (await scrape(wire))("event_loop_lag_seconds_count") > 0

                await eventually(has_lag)


async def test_every_metric_is_documented(tmp_path: Path) -> None:
    rows = [row for row in cells(sections(page("metrics"))["All metrics"]) if "`" in row[0]]
    documented = {row[0].strip("`").removesuffix("_total") for row in rows}
    with trio.fail_after(30):
        async with running_registry(tmp_path) as server, wire_to(server.port) as wire:
            types = (await scrape(wire)).types
    ours = {name.removeprefix(PREFIX) for name in types if name.startswith(PREFIX)}
    assert ours == documented
    assert "process_open_fds" in types
    for row in rows:
        name = row[0].strip("`").removesuffix("_total")
        assert (types[PREFIX + name] == "histogram") == row[2].startswith("histogram")


async def test_the_read_token_is_enough_for_the_metrics(tmp_path: Path) -> None:
    read_token = tmp_path / "read"
    read_token.write_text(READ_TOKEN)
    read_token.chmod(0o600)
    options = (f"--read-token-file={read_token}",)
    with trio.fail_after(30):
        async with running_registry(tmp_path, *options, env={"REGISTRY_TOKEN": TOKEN}) as server:
            async with wire_to(server.port) as wire:
                assert (await wire.ask("/metrics")).status == 401
            async with wire_to(server.port) as wire:
                fields = {"Authorization": f"Bearer {READ_TOKEN}"}
                assert (await wire.ask("/metrics", **fields)).status == 200
                assert TOKEN not in (await wire.ask("/metrics", **fields)).body


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_the_example_with_curl_answers_as_printed(tmp_path: Path) -> None:
    (block,) = blocks("console", page("metrics"))
    (command,) = commands(block)
    with trio.fail_after(30):
        async with running_registry(tmp_path) as server:
            line = command.line.replace("localhost:4444", f"127.0.0.1:{server.port}")
            result = await trio.run_process(["sh", "-c", line], capture_stdout=True)
    assert result.stdout.decode() == command.output


def example(word: str) -> str:
    """The block of the manual's page that has a word in it."""
    (found,) = (text for text in blocks("text", page("metrics")) if word in text)
    return found


@needs_prometheus
def test_the_example_rules_are_valid(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yml"
    rules.write_text(example("groups:"))
    result = subprocess.run(
        [str(PROMTOOL), "check", "rules", str(rules)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 rules found" in result.stdout


@needs_prometheus
@pytest.mark.slow
async def test_prometheus_scrapes_the_metrics_and_finds_no_fault(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with dial(server.url) as peer, wire_to(server.port) as wire:
                await peer.call("registry.register", name="a", host="127.0.0.1", port=9)
                text = (await scrape(wire)).text
            checked = await trio.run_process(
                [str(PROMTOOL), "check", "metrics"],
                stdin=text.encode(),
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
            assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
            config = "global: {scrape_interval: 1s}\n" + example("scrape_configs:")
            (tmp_path / "prometheus.yml").write_text(
                config.replace("localhost:4444", f"127.0.0.1:{server.port}")
            )
            async with running_prometheus(tmp_path) as url:
                query = quote("sum(plexus_registry_backends)")

                async def is_scraped() -> bool:
                    text = await get(f"{url}/api/v1/query?query={query}")
                    result = json.loads(text)["data"]["result"] if text else []
                    return bool(result) and result[0]["value"][1] == "1"

                await eventually(is_scraped)


def test_the_alerts_use_metrics_that_there_are() -> None:
    rows = cells(sections(page("metrics"))["All metrics"])
    documented = {row[0].strip("`") for row in rows}
    used = set(re.findall(rf"{PREFIX}(\w+)", example("groups:")))
    assert {each.removesuffix("_bucket") for each in used} <= documented
