"""Breaches of the protocol: each row breaks one MUST in one answer of a fake hub.

`test_strict_peers` shows that the peers notice every one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.e2e.peers.edits import (
    done_after,
    drop,
    first,
    frames_in_order,
    instead,
    put,
    subscribed_as,
    where,
)
from tests.e2e.peers.fake_hub import CHILD_HASH, ROOT_HASH

if TYPE_CHECKING:
    from tests.e2e.peers.fake_hub import Edit

HUB = "fake-hub"
CALL = "the call"
INFO = "_info"
HUB_SCHEMA = f"{HUB}.schema"
SCHEMA = "registry.schema"
UNKNOWN = "unknown"
ALL = ("synapse", "gamma", "rust")
BROWSERS = ("synapse", "gamma")

DATA = "1.params.result"
DONE = "2.params.result"
CONTENT = f"{DATA}.content"
METADATA = f"{DATA}.metadata"
ERROR = {"code": -32000, "message": "m"}


@dataclass(frozen=True, slots=True)
class Breach:
    """One MUST, broken.

    Attributes:
        method: Whose answer is edited; `CALL` is the one of `CALLS`.
        message: What the peer's error says, a regular expression.
        peers: Who has to notice.
    """

    name: str
    method: str
    edit: Edit
    message: str
    peers: tuple[str, ...] = ALL


BREACHES = [
    # Section 1: frames and envelopes.
    Breach("no JSON", CALL, instead("{"), "not JSON"),
    Breach("no object", CALL, instead([]), "not an object"),
    Breach("NaN", CALL, put(f"{DATA}.content", float("nan")), "NaN"),
    Breach("binary frame", CALL, first(b"{}"), "binary frame"),
    Breach(
        "member given twice",
        CALL,
        first('{"jsonrpc":"2.0","jsonrpc":"2.0","id":1,"result":1}'),
        "given twice",
    ),
    Breach("no version", CALL, drop("0.jsonrpc"), "jsonrpc is None"),
    Breach("version is a number", CALL, put("1.jsonrpc", 2.0), "jsonrpc"),
    Breach("id of another", CALL, put("0.id", 999), "never sent"),
    Breach("id as text", CALL, put("0.id", "1"), "never sent"),
    Breach("id is null", CALL, put("0.id", None), "never sent"),
    Breach("answered twice", CALL, frames_in_order(0, 0, 1, 2), "second"),
    Breach(
        "result and error",
        CALL,
        put("0.error", ERROR),
        "result or an error",
    ),
    Breach(
        "neither result nor error",
        CALL,
        drop("0.result"),
        "result or an error",
    ),
    Breach(
        "member beside the result",
        CALL,
        put("0.server", "x"),
        "unknown members",
    ),
    Breach(
        "member beside the code",
        CALL,
        instead({"jsonrpc": "2.0", "id": 1, "error": {**ERROR, "hint": "x"}}),
        "unknown members",
    ),
    Breach(
        "error code as text",
        CALL,
        instead({"jsonrpc": "2.0", "id": 1, "error": {**ERROR, "code": "-32000"}}),
        "error.code",
    ),
    Breach("closes", CALL, instead(None), "closed the connection"),
    Breach(
        "closes in the middle",
        CALL,
        lambda frames: [frames[0], None],
        "closed the connection",
    ),
    # Section 2: the subscription pattern.
    Breach("id as text in all", CALL, subscribed_as("7"), "not an integ"),
    Breach("fractional id", CALL, subscribed_as(7.5), "not an integer"),
    Breach("whole fraction", CALL, subscribed_as(7.0), "not an integer"),
    Breach("boolean id", CALL, subscribed_as(True), "not an integer"),
    Breach(name="null id", method=CALL, edit=subscribed_as(None), message="not an integer"),
    Breach("object as id", CALL, subscribed_as({}), "not an integer"),
    Breach("negative id", CALL, subscribed_as(-1), "not from 0"),
    Breach("id of 2^53", CALL, subscribed_as(2**53), "not from 0"),
    Breach("id used again", CALL, subscribed_as(1), "used again"),
    Breach(
        "data before the acknowledgement",
        CALL,
        frames_in_order(1, 0, 2),
        "before its acknowledgement",
    ),
    Breach(
        "acknowledgement last",
        CALL,
        frames_in_order(1, 2, 0),
        "before its acknowledgement",
    ),
    Breach(
        "never acknowledged",
        CALL,
        frames_in_order(1, 2),
        "no answer to .* within",
    ),
    Breach(
        "never a done",
        CALL,
        frames_in_order(0, 1),
        "no (item|end) of .* within",
    ),
    Breach("never an item", CALL, frames_in_order(0), "no item of .* within"),
    Breach("done twice", CALL, frames_in_order(0, 1, 2, 2), "after the e"),
    Breach(
        "data after done",
        CALL,
        frames_in_order(0, 1, 2, 1),
        "after the end",
    ),
    Breach(
        "done after error",
        UNKNOWN,
        done_after,
        "after the end",
        peers=BROWSERS,
    ),
    Breach(
        "item of nobody",
        CALL,
        put("2.params.subscription", 999),
        "no (item|end) of .* within",
    ),
    Breach("notification has an id", CALL, put("1.id", 1), "has an id"),
    Breach(
        "notification without subscription",
        CALL,
        drop("1.params.subscription"),
        "params.subscription is None",
    ),
    Breach(
        "notification without result",
        CALL,
        drop("1.params.result"),
        "item is None",
    ),
    Breach(
        "error form of jsonrpsee",
        CALL,
        put("1.params.error", "text"),
        "params.error",
    ),
    Breach(
        "unsubscribed with a word",
        "unsubscribe",
        put("0.result", "ok"),
        "not true or false",
        peers=("rust",),
    ),
    Breach(
        "unsubscribed after the end",
        "unsubscribe",
        put("0.result", True),
        "had ended",
        peers=("rust",),
    ),
    # Section 3: items.
    Breach("no type", CALL, drop(f"{DATA}.type"), "item has no type"),
    Breach("type request", CALL, put(f"{DATA}.type", "request"), "never"),
    Breach("no content", CALL, drop(CONTENT), "no content"),
    Breach(
        "contentType",
        CALL,
        put(f"{DATA}.contentType", "x"),
        "unknown members",
    ),
    Breach("no metadata", CALL, drop(f"{DONE}.metadata"), "metadata is N"),
    Breach(
        "fractional timestamp",
        CALL,
        put(f"{METADATA}.timestamp", 1767225600.5),
        "metadata.timestamp",
    ),
    Breach(
        "timestamp is a whole fraction",
        CALL,
        put(f"{DONE}.metadata.timestamp", 1767225600.0),
        "metadata.timestamp",
    ),
    Breach(
        "timestamp as text",
        CALL,
        put(f"{METADATA}.timestamp", "1767225600"),
        "metadata.timestamp",
    ),
    Breach(
        "two timestamps in a stream",
        CALL,
        put(f"{METADATA}.timestamp", 1767225600),
        "two timestamps",
    ),
    Breach(
        "hash of 15 digits",
        CALL,
        put(f"{METADATA}.plexus_hash", ROOT_HASH[1:]),
        "16 lowercase hex digits",
    ),
    Breach(
        "hash in capitals",
        CALL,
        put(f"{METADATA}.plexus_hash", ROOT_HASH.upper()),
        "16 lowercase hex digits",
    ),
    Breach(
        "another root hash",
        CALL,
        put(f"{DONE}.metadata.plexus_hash", CHILD_HASH),
        "plexus_hash was",
    ),
    Breach(
        "no provenance",
        CALL,
        put(f"{METADATA}.provenance", []),
        "provenance",
    ),
    Breach(
        "error code is a number",
        UNKNOWN,
        put(f"{DATA}.code", -32601),
        "error item.code",
        peers=BROWSERS,
    ),
    Breach(
        "recoverable is missing",
        UNKNOWN,
        drop(f"{DATA}.recoverable"),
        "no recoverable",
        peers=BROWSERS,
    ),
    # `_info`.
    Breach(
        "_info without a name",
        INFO,
        drop(f"{CONTENT}.backend"),
        "no backend",
        peers=("synapse",),
    ),
    Breach(
        "_info without done",
        INFO,
        frames_in_order(0, 1),
        "within",
        peers=("synapse", "rust"),
    ),
    Breach(
        "_info under another name",
        INFO,
        put("1.method", "_info"),
        "not noticed",
        peers=("gamma",),
    ),
    # Section 5: schemas.
    Breach(
        "content type of a schema",
        SCHEMA,
        put(f"{DATA}.content_type", "registry.method_schemas"),
        "does not end in .schema",
        peers=("synapse",),
    ),
    Breach(
        "schema without hash",
        SCHEMA,
        drop(f"{CONTENT}.hash"),
        "no hash",
        peers=BROWSERS,
    ),
    Breach(
        "schema without version",
        SCHEMA,
        drop(f"{CONTENT}.version"),
        "no version",
        peers=BROWSERS,
    ),
    Breach(
        "unset member is null",
        SCHEMA,
        put(f"{CONTENT}.deprecation", None),
        "null members",
        peers=BROWSERS,
    ),
    Breach(
        "leaf with empty children",
        SCHEMA,
        put(f"{CONTENT}.children", []),
        "children",
        peers=BROWSERS,
    ),
    Breach(
        "child with the hash of its parent",
        HUB_SCHEMA,
        put(f"{CONTENT}.children.0.hash", ROOT_HASH),
        "Cycle detected|differ",
        peers=BROWSERS,
    ),
    Breach(
        "child hash in two versions",
        SCHEMA,
        put(f"{CONTENT}.hash", "0" * 16),
        "differ",
        peers=BROWSERS,
    ),
    Breach(
        "hyphen below the hub",
        HUB_SCHEMA,
        put(f"{CONTENT}.children.0.namespace", "my-registry"),
        "path segment",
        peers=BROWSERS,
    ),
    Breach(
        "root hash is not plexus_hash",
        HUB_SCHEMA,
        put(f"{CONTENT}.hash", "0" * 16),
        "root hash",
        peers=("synapse",),
    ),
    Breach(
        "method without description",
        SCHEMA,
        drop(f"{CONTENT}.methods.0.description"),
        "no description",
        peers=BROWSERS,
    ),
    Breach(
        "method without streaming",
        SCHEMA,
        drop(f"{CONTENT}.methods.0.streaming"),
        "no streaming",
        peers=BROWSERS,
    ),
    Breach(
        "unknown role",
        SCHEMA,
        put(f"{CONTENT}.methods.0.role.kind", "leaf"),
        "role.kind",
        peers=BROWSERS,
    ),
    Breach(
        "nullable by anyOf",
        SCHEMA,
        put(
            f"{CONTENT}.methods.0.params.properties.active_only",
            {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
        ),
        "degrades to any",
        peers=BROWSERS,
    ),
    Breach(
        "default that is sent with every call",
        SCHEMA,
        put(f"{CONTENT}.methods.1.params.properties.name.default", "x"),
        "default",
        peers=("synapse",),
    ),
    Breach(
        "variant by reference",
        SCHEMA,
        put(f"{CONTENT}.methods.1.returns.oneOf.0", {"$ref": "#/$defs/BackendInfo"}),
        "not inline",
        peers=("synapse",),
    ),
    Breach(
        "variant without a tag",
        SCHEMA,
        drop(f"{CONTENT}.methods.1.returns.oneOf.0.properties.type.const"),
        "no const",
        peers=("synapse",),
    ),
    Breach(
        "property in camelCase",
        SCHEMA,
        put(f"{CONTENT}.methods.0.params.properties", {"activeOnly": {"type": "boolean"}}),
        "comes back as active_only",
        peers=("gamma",),
    ),
    Breach(
        "property with a digit of its own",
        SCHEMA,
        put(f"{CONTENT}.methods.0.params.properties", {"limit_2": {"type": "boolean"}}),
        "comes back as limit2",
        peers=("gamma",),
    ),
    Breach(
        "PluginSchema for one method",
        SCHEMA,
        where(CONTENT, lambda schema: "methods" not in schema, put(f"{CONTENT}.methods", [])),
        "Expected method schema",
        peers=("synapse",),
    ),
    # Section 6: events.
    Breach(
        "null is left out",
        "registry.get",
        where(CONTENT, lambda event: event["backend"] is None, drop(f"{CONTENT}.backend")),
        "not explicit",
        peers=("synapse",),
    ),
    Breach(
        "event that is not in the schema",
        "registry.get",
        put(f"{CONTENT}.type", "found"),
        "stated are",
        peers=("synapse",),
    ),
    Breach(
        "member of another type than in the schema",
        "registry.get",
        put(f"{CONTENT}.backend.port", "5001"),
        "none of the variants",
        peers=("synapse",),
    ),
    Breach(
        "unset member of an entry is null",
        "registry.list",
        put(f"{CONTENT}.backends.0.version", None),
        "backend.version is None",
        peers=BROWSERS,
    ),
    Breach(
        "entry without is_active",
        "registry.list",
        drop(f"{CONTENT}.backends.0.is_active"),
        "no is_active",
        peers=BROWSERS,
    ),
    Breach(
        "inactive entry in the list",
        "registry.list",
        put(f"{CONTENT}.backends.0.is_active", False),
        "not active",
        peers=("gamma",),
    ),
    Breach(
        "metadata is no JSON text",
        "registry.list",
        put(f"{CONTENT}.backends.0.metadata", "{"),
        "no JSON text",
        peers=BROWSERS,
    ),
]
