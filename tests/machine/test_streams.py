"""Streams of many connections, in any interleaving: each one that was acknowledged ends once.

A real registry answers; the model is a ledger of what each connection was told. A stream of a
single frame is over when that frame was answered; within a batch it lives from its
acknowledgement to the end of the batch, or until an unsubscribe in the same batch.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, rule

from plexus_registry.app import open_registry
from plexus_registry.rpc.handler import Handler
from plexus_registry.rpc.plexus import Hub
from plexus_registry.settings import Settings
from tests.fakes import answered
from tests.machine.loop import Loop

HUB = Hub("registry-hub")
Json = dict[str, object]

inner_calls = st.sampled_from(
    [
        {"method": "registry.list", "params": {"active_only": None}},
        {"method": "registry.register", "params": {"name": "a", "host": "h", "port": 1}},
        {"method": "registry.register", "params": {"name": "a", "host": "h", "port": 2}},
        {"method": "registry.delete", "params": {"name": "a"}},
        {"method": "registry.ping", "params": "a"},
        {"method": "registry.nope"},
        {"method": "nodot"},
        {"method": "registry.get", "params": {"name": 5}},
        {"method": "registry-hub.call", "params": {"method": "registry.get", "params": "a"}},
        {"method": "registry-hub.call", "params": {"method": "foo.bar"}},
        {"method": "registry-hub.hash"},
    ]
)
calls = st.one_of(
    st.builds(lambda inner: ("registry-hub.call", inner), inner_calls),
    st.sampled_from(
        [
            ("_info", None),
            ("registry-hub.schema", {}),
            ("registry-hub.hash", None),
            ("registry_ping", {"name": "a"}),
            ("registry_get", ["a"]),
        ]
    ),
)
plain: st.SearchStrategy[tuple[str, object]] = st.sampled_from(
    [("registry.get", ["a"]), ("registry.nope", None), ("registry_get", {}), ("rpc.x", [5])]
)
unsubscribes = st.tuples(
    st.sampled_from(
        ["registry-hub.call_unsub", "_info_unsub", "registry_unsubscribe_ping", "x_unsub"]
    ),
    st.one_of(st.integers(0, 12).map(lambda number: [number]), st.sampled_from([None, ["x"]])),
)
requests = st.one_of(calls, calls, unsubscribes, plain)


@dataclass
class Connection:
    """One connection and its ledger."""

    responder: Handler
    next_id: int = 1
    acknowledged: dict[int, str] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)


class StreamsMachine(RuleBasedStateMachine):
    connections = Bundle("connections")

    def __init__(self) -> None:
        super().__init__()
        self.loop = Loop()
        self.folder = Path(tempfile.mkdtemp(prefix="registry-streams-"))
        settings = Settings(
            db_path=self.folder / "registry.db", config_path=self.folder / "backends.toml"
        )
        self.context = open_registry(settings)
        self.registry = self.loop.run(self.context.__aenter__)

    def teardown(self) -> None:
        self.loop.run(self.context.__aexit__, None, None, None)
        self.loop.close()
        shutil.rmtree(self.folder)

    @rule(target=connections)
    def connect(self) -> Connection:
        return Connection(Handler(self.registry, HUB))

    @rule(connection=consumes(connections))
    def disconnect(self, connection: Connection) -> None:
        assert connection.acknowledged.keys() == connection.ended

    @rule(connection=connections, call=requests)
    def send(self, connection: Connection, call: tuple[str, object]) -> None:
        request = self._request(connection, call)
        response, *frames = self._answer(connection, request)
        self._check_response(connection, request, msgspec.json.decode(response), set())
        self._check_items(connection, frames, set())

    @rule(connection=connections, batch=st.lists(requests, min_size=1, max_size=6))
    def send_batch(self, connection: Connection, batch: list[tuple[str, object]]) -> None:
        sent = [self._request(connection, call) for call in batch]
        response, *frames = self._answer(connection, sent)
        responses = msgspec.json.decode(response)
        assert len(responses) == len(sent)
        unsubscribed: set[int] = set()
        for request, each in zip(sent, responses, strict=True):
            self._check_response(connection, request, each, unsubscribed)
        self._check_items(connection, frames, unsubscribed)

    @rule(connection=connections, call=requests)
    def notify(self, connection: Connection, call: tuple[str, object]) -> None:
        request = self._request(connection, call)
        del request["id"]
        assert self._answer(connection, request) == []

    def _request(self, connection: Connection, call: tuple[str, object]) -> Json:
        method, params = call
        request_id, connection.next_id = connection.next_id, connection.next_id + 1
        return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}

    def _answer(self, connection: Connection, frame: Json | list[Json]) -> list[str]:
        return self.loop.run(answered, connection.responder, msgspec.json.encode(frame).decode())

    def _check_response(
        self, connection: Connection, request: Json, response: Json, unsubscribed: set[int]
    ) -> None:
        assert response["jsonrpc"] == "2.0"
        assert response["id"] == request["id"]
        assert ("result" in response) != ("error" in response)
        result = response.get("result")
        method = str(request["method"])
        if "unsub" in method and "result" in response:
            (number,) = msgspec.convert(request["params"] or [None], list[object])
            of = method.removesuffix("_unsub").replace("registry_unsubscribe_", "registry_")
            is_live = (
                type(number) is int
                and connection.acknowledged.get(number) == of
                and number not in connection.ended
            )
            assert result is is_live
            if is_live:
                assert isinstance(number, int)
                unsubscribed.add(number)
                connection.ended.add(number)
        elif isinstance(result, int) and not isinstance(result, bool):
            assert 0 <= result < 2**53
            assert result not in connection.acknowledged, "numbers are never used again"
            connection.acknowledged[result] = method

    def _check_items(
        self, connection: Connection, frames: list[str], unsubscribed: set[int]
    ) -> None:
        for frame in frames:
            notification = msgspec.json.decode(frame)
            assert notification.keys() == {"jsonrpc", "method", "params"}
            number = notification["params"]["subscription"]
            assert number in connection.acknowledged
            assert number not in connection.ended, "nothing follows the end of a stream"
            assert number not in unsubscribed
            if notification["params"]["result"]["type"] in ("done", "error"):
                connection.ended.add(number)
        assert connection.acknowledged.keys() == connection.ended, "every stream ends"


TestStreamsMachine = pytest.mark.slow(StreamsMachine.TestCase)
