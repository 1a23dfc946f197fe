"""A small Plexus hub with a `registry` child, which keeps the protocol, or breaks it where told.

It serves the scripted peers as something to look at and to fail on; it is no registry.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket

from tests.e2e.peers.frames import an_object

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

Frames = list[object]
"""What answers one request: objects go out as JSON, texts and bytes as they are; None closes."""

Edit = Callable[[Frames], Frames]

ROOT_HASH = "0f1e2d3c4b5a6978"
CHILD_HASH = "9a8b7c6d5e4f3021"
_SELF_HASH = "1111222233334444"
_METHOD_HASH = "5555666677778888"

_BACKEND = {
    "type": "object",
    "properties": {
        **{name: {"type": "string"} for name in ("id", "name", "host", "protocol", "source")},
        "port": {"type": "integer", "format": "uint16", "minimum": 0, "maximum": 65535},
        **{name: {"type": ["string", "null"]} for name in ("version", "metadata")},
        "is_active": {"type": "boolean"},
        **{name: {"type": "integer"} for name in ("registered_at", "created_at", "updated_at")},
    },
    "required": ["id", "name", "host", "port", "protocol", "is_active"],
}


def _variant(tag: str, **members: object) -> dict[str, object]:
    properties = {"type": {"type": "string", "const": tag}, **members}
    return {"type": "object", "properties": properties, "required": list(properties)}


_REFERENCE = {"$ref": "#/$defs/BackendInfo"}
_RETURNS = {
    "title": "RegistryEvent",
    "oneOf": [
        _variant("backends", backends={"type": "array", "items": _REFERENCE}),
        _variant("backend", backend={"anyOf": [_REFERENCE, {"type": "null"}]}),
        _variant("backend_registered", backend=_REFERENCE),
        _variant("backend_deregistered", name={"type": "string"}),
    ],
    "$defs": {"BackendInfo": _BACKEND},
}
_NAME: dict[str, object] = {"properties": {"name": {"type": "string"}}, "required": ["name"]}
_PARAMS: dict[str, dict[str, object]] = {
    "list": {"properties": {"active_only": {"type": ["boolean", "null"], "default": None}}},
    "get": _NAME,
    "register": {
        "properties": {
            "name": {"type": "string"},
            "host": {"type": "string"},
            "port": {"type": "integer"},
            "protocol": {"type": ["string", "null"], "default": None},
        },
        "required": ["name", "host", "port"],
    },
    "deregister": _NAME,
}


def _method(name: str, **more: object) -> dict[str, object]:
    return {
        "name": name,
        "description": f"The method {name}.",
        "hash": _METHOD_HASH,
        **more,
        "streaming": False,
        "bidirectional": False,
        "http_method": "POST",
        "role": {"kind": "rpc"},
    }


_REGISTRY_SCHEMA: dict[str, object] = {
    "namespace": "registry",
    "version": "1.0.0",
    "description": "A list.",
    "self_hash": _SELF_HASH,
    "hash": CHILD_HASH,
    "methods": [
        *(
            _method(name, params={"type": "object", **params}, returns=_RETURNS)
            for name, params in _PARAMS.items()
        ),
        {**_method("schema"), "hash": "auto_schema"},
    ],
}


_FAILURE = {"code": "-32601", "recoverable": False}


@dataclass
class FakeHub:
    """One running fake.

    Attributes:
        name: Its hub namespace.
        edits: What to do to the frames that answer a method, by the method's name: that of the
            inner method for calls through the hub, `unsubscribe` for all unsubscribe methods.
        backends: The entries of its registry by name.
        requests: What it was asked, in order, by all connections.
        port: Where it listens.
    """

    name: str
    edits: Mapping[str, Edit] = field(default_factory=dict)
    backends: dict[str, dict[str, object]] = field(default_factory=dict)
    requests: list[dict[str, object]] = field(default_factory=list)
    port: int = 0

    def answer(self, request: dict[str, object], subscription: int) -> Frames:
        """Give the frames that answer one request; a stream gets the id."""
        self.requests.append(request)
        method, params = str(request["method"]), request.get("params")
        if method.endswith("_unsub"):
            return self._edited("unsubscribe", [_response(request, result=False)])
        if method == "_info":
            content = {"backend": self.name, "version": "0.0.0"}
            return self._edited(
                method, self._stream(request, subscription, "result", method, content)
            )
        if method != f"{self.name}.call":
            error = {"code": -32601, "message": "Method not found"}
            return [_response(request, error=error)]
        call = an_object(params, "params")
        inner = str(call["method"])
        content_or_none = self._call(inner, call.get("params"))
        if content_or_none is None:
            failure = {"type": "error", "message": f"Method not found: {inner}", **_FAILURE}
            return self._edited("unknown", self._frames(request, subscription, method, failure))
        frames = self._stream(request, subscription, method, inner, content_or_none)
        return self._edited(inner, frames)

    def _edited(self, method: str, frames: Frames) -> Frames:
        copied: Frames = json.loads(json.dumps(frames))  # no part is shared with another
        return self.edits.get(method, list)(copied)

    def _call(self, inner: str, params: object) -> dict[str, object] | None:
        if inner == f"{self.name}.schema":
            return self._hub_schema()
        if inner == f"{self.name}.hash":
            return {"event": "hash", "value": ROOT_HASH}
        if inner == "registry.schema":
            return self._registry_schema(params)
        if inner == "registry.list":
            return {"type": "backends", "backends": list(self.backends.values())}
        given = params if isinstance(params, dict) else {}
        if inner == "registry.get":
            return {"type": "backend", "backend": self.backends.get(str(given["name"]))}
        if inner == "registry.register":
            return {"type": "backend_registered", "backend": self._register(given)}
        if inner == "registry.deregister":
            return {"type": "backend_deregistered", "name": given["name"]}
        return None

    def _hub_schema(self) -> dict[str, object]:
        child = {"namespace": "registry", "description": "A list.", "hash": CHILD_HASH}
        returns = {"title": "AnyValue", "oneOf": [_variant("any")]}
        return {
            **_REGISTRY_SCHEMA,
            "namespace": self.name,
            "children_hash": _SELF_HASH,
            "hash": ROOT_HASH,
            "methods": [_method(name, returns=returns) for name in ("call", "hash")],
            "children": [child],
        }

    def _registry_schema(self, params: object) -> dict[str, object]:
        if not isinstance(params, dict) or "method" not in params:
            return _REGISTRY_SCHEMA
        methods = _REGISTRY_SCHEMA["methods"]
        assert isinstance(methods, list)
        return next(method for method in methods if method["name"] == params["method"])

    def entry(self, name: str) -> dict[str, object]:
        """Give an entry of a registry that leads to this fake."""
        return self._entry({"name": name, "host": "127.0.0.1", "port": self.port, "protocol": "ws"})

    def _register(self, given: Mapping[str, object]) -> dict[str, object]:
        self.backends[str(given["name"])] = entry = self._entry(given)
        return entry

    def _entry(self, given: Mapping[str, object]) -> dict[str, object]:
        now = int(time.time())
        entry: dict[str, object] = {
            "id": "33333333-3333-4333-8333-333333333333",
            **given,
            "source": given.get("source", "manual"),
            "is_active": True,
            "registered_at": now,
            "created_at": now,
            "updated_at": now,
        }
        if "metadata" in given:
            entry["metadata"] = json.dumps(given["metadata"])
        return entry

    def _stream(
        self,
        request: Mapping[str, object],
        subscription: int,
        notification: str,
        content_type: str,
        content: object,
    ) -> Frames:
        data = {"type": "data", "content_type": content_type, "content": content}
        return self._frames(request, subscription, notification, data, {"type": "done"})

    def _frames(
        self,
        request: Mapping[str, object],
        subscription: int,
        notification: str,
        *items: dict[str, object],
    ) -> Frames:
        metadata = {
            "provenance": [self.name],
            "plexus_hash": ROOT_HASH,
            "timestamp": int(time.time()),
        }
        frames: Frames = [_response(request, result=subscription)]
        for item in items:
            params = {"subscription": subscription, "result": {**item, "metadata": metadata}}
            frames.append({"jsonrpc": "2.0", "method": notification, "params": params})
        return frames


def _response(request: Mapping[str, object], **outcome: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": request["id"], **outcome}


@asynccontextmanager
async def running_fake(
    name: str, edits: Mapping[str, Edit] | None = None
) -> AsyncIterator[FakeHub]:
    """Run a fake on a free port of loopback."""
    fake = FakeHub(name, edits or {})
    async with trio.open_nursery() as nursery:
        serve = partial(serve_websocket, partial(_converse, fake), "127.0.0.1", 0, None)
        server = await nursery.start(serve)
        fake.port = server.port
        yield fake
        nursery.cancel_scope.cancel()


async def _converse(fake: FakeHub, request: WebSocketRequest) -> None:
    subscriptions = itertools.count(1)
    try:
        async with await request.accept() as ws:
            while True:
                asked = an_object(json.loads(await ws.get_message()), "request")
                for frame in fake.answer(asked, next(subscriptions)):
                    if frame is None:
                        return
                    raw = frame if isinstance(frame, (str, bytes)) else json.dumps(frame)
                    await ws.send_message(raw)
    except ConnectionClosed:
        return
