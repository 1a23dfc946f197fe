"""The Plexus hub: which call means what.

Theory of operation. A request is routed to one of three things: a command, answered with one
response; an `Unsubscribe`; or a `Stream`, acknowledged with a number and followed by items.
What a stream says is known at once (a schema, a hash, a failure), or it is the report of a
command. Routing splits the inner method of a call at its dots: the hub's own methods, the
registry's, and `schema` below each.

Source: manual/protocol.md, "Hub methods" and "Routing of a call".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plexus_registry import __version__
from plexus_registry.rpc.call_parameters import (
    call_parameters,
    command_in_call,
    in_snake_case,
    invalid_params,
    schema_of,
    subscription,
    unknown_response,
)
from plexus_registry.rpc.items import CallFailure
from plexus_registry.rpc.limits import Limits
from plexus_registry.rpc.routes import Known, Route, Stream, Topic, Unsubscribe
from plexus_registry.rpc.schema import Plugin, hub_plugin, registry_plugin
from plexus_registry.rpc.stream_items import StreamEncoder
from plexus_registry.rules.errors import InvalidParamsError, MethodNotFoundError, clipped, shown
from plexus_registry.rules.events import encode_value
from plexus_registry.rules.methods import (
    BY_NAME,
    METHODS,
    NAMESPACE,
    Method,
    Watch,
    command_from,
    nearest,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plexus_registry.rpc.json_schema import Schema
    from plexus_registry.rules.parameters import Command

INFO = "_info"
RESULT = "result"
"""What notifications of `_info`, `HUB.hash` and `HUB.schema` are called."""
EVENT = f"{NAMESPACE}.event"
"""What notifications of a direct watch are called."""


class Hub:
    """One hub with the registry below it.

    Attributes:
        namespace: What the hub is called.
        limits: What one connection may ask for at a time.
        encoder: Says what streams say, once it is known.
    """

    def __init__(
        self,
        namespace: str,
        *,
        limits: Limits | None = None,
        mechanisms: tuple[Mapping[str, str], ...] = (),
    ) -> None:
        """Describe the hub.

        Args:
            namespace: What it is called; not the registry's own namespace.
            limits: What one connection may ask for at a time.
            mechanisms: How callers may identify themselves; nobody needs to by default.

        Raises:
            ValueError: The namespace would hide the registry's methods.
        """
        if namespace == NAMESPACE:
            raise ValueError(f"a hub called {NAMESPACE} would hide the registry's methods")
        self.namespace = namespace
        self.limits = limits or Limits()
        self._registry = registry_plugin()
        self._hub = hub_plugin(namespace, self._registry)
        self.encoder = StreamEncoder(self._hub.hash)
        info = {
            "backend": namespace,
            "version": __version__,
            "auth_capabilities": {"mechanisms": mechanisms or ({"kind": "anonymous"},)},
            "limits": self.limits,
        }
        self._info = Topic(Known(encode_value(info)), namespace, INFO)
        self._known_hash = Known(encode_value({"event": "hash", "value": self._hub.hash}))
        self._known_hashes = Known(encode_value(self._hashes()))
        self._encoded: dict[tuple[str, str, str], Known] = {}
        self._direct = {f"{NAMESPACE}.{method.name}": method for method in METHODS}
        self._underscored = {f"{NAMESPACE}_{method.name}": method for method in METHODS}
        self._call, self._hash_call = f"{namespace}.call", f"{namespace}.hash"
        self._schema_call, self._respond = f"{namespace}.schema", f"{namespace}.respond"
        streams = (INFO, self._call, self._hash_call, self._schema_call)
        self._unsubscribes = {
            f"{NAMESPACE}.unwatch": f"{NAMESPACE}.watch",
            **{f"{method}_unsub": method for method in streams},
            **{
                f"{NAMESPACE}_unsubscribe_{method.name}": f"{NAMESPACE}_{method.name}"
                for method in METHODS
            },
        }
        self._all_methods = (
            *self._direct,
            *streams,
            self._respond,
            *self._underscored,
            *self._unsubscribes,
        )

    # Routing of a request.

    def route(self, method: str, params: object) -> Route:
        """Find out what a request asks for.

        Raises:
            MethodNotFoundError: No method has that name; the nearest one is said.
            InvalidParamsError: The parameters are refused before anything is acknowledged.
        """
        if (direct := self._direct.get(method)) is not None:
            command = command_from(direct, params)
            return Stream(method, EVENT, command) if isinstance(command, Watch) else command
        if method == self._call:
            inner, inner_params = call_parameters(params)
            return Stream(method, method, self._topic(inner, inner_params))
        if method == INFO:
            return Stream(method, RESULT, self._info)
        if method == self._hash_call:
            return Stream(method, RESULT, self._said(self._known_hash, "hash"))
        if method == self._schema_call:
            return Stream(method, RESULT, self._direct_schema(params))
        if (underscored := self._underscored.get(method)) is not None:
            command = command_from(
                underscored, in_snake_case(underscored, params), ignore_unknown=True
            )
            return Stream(method, method, _report(underscored, command))
        if (stream := self._unsubscribes.get(method)) is not None:
            return Unsubscribe(stream, subscription(params))
        if method == self._respond:
            raise unknown_response(params)
        raise self._unknown(method)

    def _unknown(self, method: str) -> MethodNotFoundError:
        return MethodNotFoundError(
            f"Method not found: {clipped(method)}{_hint(method, self._all_methods)}",
            method=clipped(method),
            nearest=nearest(method, self._all_methods),
        )

    # Routing of the method inside a call.

    def _topic(self, path: str, params: object, *, depth: int = 0) -> Topic:
        head, dot, rest = path.partition(".")
        if not dot:
            message = f"Invalid params: Invalid method format: {clipped(path)}"
            detail = {"kind": "invalid_params", "param": "method", "problem": "malformed"}
            return self._failed(CallFailure(message, -32602, {**detail, "detail": "no dot in it"}))
        if head == self.namespace:
            return self._hub_topic(path, rest, params, depth=depth)
        if head == NAMESPACE:
            return self._registry_topic(path, rest, params)
        return self._no_activation(head)

    def _hub_topic(self, path: str, rest: str, params: object, *, depth: int) -> Topic:
        name, dot, below = rest.partition(".")
        if name == NAMESPACE and dot:
            return self._registry_topic(path, below, params)
        if below == "schema":
            return self._schema_of_one(self._hub, path, name)
        if dot:
            return self._no_activation(name)
        match name:
            case "hash":
                return self._said(self._known_hash, "hash")
            case "hashes":
                return self._said(self._known_hashes, "hashes")
            case "schema":
                return self._schema(self._hub, params)
            case "call":
                return self._nested(params, depth=depth)
            case _:
                return self._no_method(path, self.namespace, name, self._hub)

    def _registry_topic(self, path: str, rest: str, params: object) -> Topic:
        if rest == "schema":
            return self._schema(self._registry, params)
        name, _, below = rest.partition(".")
        if below == "schema":
            return self._schema_of_one(self._registry, path, name)
        method = BY_NAME.get(rest)
        if method is None:
            return self._no_method(path, NAMESPACE, rest, self._registry)
        try:
            return _report(method, command_in_call(method, params))
        except InvalidParamsError as error:
            return self._failed(invalid_params(error))

    def _nested(self, params: object, *, depth: int) -> Topic:
        try:
            inner, inner_params = call_parameters(params)
        except InvalidParamsError as error:
            return self._failed(invalid_params(error))
        topic = self._topic(inner, inner_params, depth=depth + 1)
        return Topic(topic, self.namespace, self._call)

    # Topics.

    def _said(self, known: Known, what: str) -> Topic:
        return Topic(known, self.namespace, f"{self.namespace}.{what}")

    def _failed(self, failure: CallFailure) -> Topic:
        return Topic(failure, self.namespace)

    def _no_activation(self, name: str) -> Topic:
        known = (self.namespace, NAMESPACE)
        detail = {
            "kind": "activation_not_found",
            "activation": clipped(name),
            "nearest": nearest(name, known),
        }
        message = f"Activation not found: {clipped(name)}{_hint(name, known)}"
        return self._failed(CallFailure(message, -32601, detail))

    def _no_method(self, path: str, activation: str, name: str, plugin: Plugin) -> Topic:
        known = plugin.method_names()
        detail = {
            "kind": "method_not_found",
            "activation": activation,
            "method": clipped(name),
            "nearest": nearest(name, known),
        }
        message = f"Method not found: {clipped(path)}{_hint(name, known, prefix=activation)}"
        return self._failed(CallFailure(message, -32601, detail))

    def _direct_schema(self, params: object) -> Topic:
        """Find the schema that a direct call asks for; a wrong name is refused at once."""
        topic = self._schema(self._hub, params)
        if isinstance(topic.source, CallFailure):
            raise InvalidParamsError(
                f"Parameter method is {shown(schema_of(params))}:"
                f" it must be one of {', '.join(self._hub.method_names())}",
                param="method",
                problem="malformed",
            )
        return topic

    def _schema(self, plugin: Plugin, params: object) -> Topic:
        name = schema_of(params)
        content_type = f"{plugin.namespace}.schema"
        if name is None:
            known = self._encode(plugin.namespace, "", "whole", plugin.schema())
            return Topic(known, plugin.namespace, content_type)
        schema = plugin.method_schema(name) if isinstance(name, str) else None
        if schema is None:
            text = clipped(name) if isinstance(name, str) else shown(name)
            path = f"{plugin.namespace}.{text}"
            return self._no_method(path, plugin.namespace, text, plugin)
        known = self._encode(plugin.namespace, str(name), "method", schema)
        return Topic(known, plugin.namespace, content_type)

    def _schema_of_one(self, plugin: Plugin, path: str, name: str) -> Topic:
        schema = plugin.schema_of_one(name)
        if schema is None:
            return self._no_method(path, plugin.namespace, name, plugin)
        known = self._encode(plugin.namespace, name, "one", schema)
        return Topic(known, plugin.namespace, f"{plugin.namespace}.{name}.schema")

    def _encode(self, namespace: str, name: str, form: str, schema: Schema) -> Known:
        """Encode a schema once."""
        key = (namespace, name, form)
        if key not in self._encoded:
            self._encoded[key] = Known(encode_value(schema))
        return self._encoded[key]

    def _hashes(self) -> dict[str, object]:
        hub, child = self._hub, self._registry
        return {
            "namespace": hub.namespace,
            "self_hash": hub.self_hash,
            "children_hash": hub.children_hash,
            "hash": hub.hash,
            "children": [{"namespace": child.namespace, "hash": child.hash}],
        }


def _report(method: Method, command: Command) -> Topic:
    return Topic(command, NAMESPACE, f"{NAMESPACE}.{method.name}")


def _hint(word: str, known: tuple[str, ...], *, prefix: str = "") -> str:
    """Name the known word that was most likely meant, where one is very near."""
    guess = nearest(word, known, least=0.7)
    return f" (did you mean {prefix + '.' if prefix else ''}{guess}?)" if guess else ""
