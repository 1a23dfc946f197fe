"""The Plexus hub: what each call means.

Theory of operation. A request is routed to one of three things: a command, answered with one
response; an `Unsubscribe`; or a `Stream`, acknowledged with a number and followed by items. The
content of a stream is a static text (a schema, a hash), a failure, or the report of a command. The
inner method of a call is split at its dots: the hub's own methods, the registry's, and `schema`
below each.

Source: manual/protocol.md, "Hub methods" and "Routing of a call".
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from plexus_registry import __version__
from plexus_registry.rpc.call_parameters import (
    call_parameters,
    command_in_call,
    in_snake_case,
    invalid_params,
    refuse_response,
    schema_of,
    unsubscription,
)
from plexus_registry.rpc.schema import Plugin, hub_plugin, registry_plugin
from plexus_registry.rpc.streams import (
    CallFailure,
    Route,
    Stream,
    StreamContent,
    StreamEncoder,
)
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
from plexus_registry.rules.parameters import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from plexus_registry.rpc.schema import Schema
    from plexus_registry.rules.parameters import Command

INFO = "_info"
RESULT = "result"
"""The method of notifications of `_info`, `HUB.hash` and `HUB.schema`."""
WATCH = f"{NAMESPACE}.watch"
EVENT = f"{NAMESPACE}.event"
"""The method of notifications of a direct watch."""


class Hub:
    """One hub with the registry below it.

    Attributes:
        namespace: The name of the hub.
        limits: What one connection may ask for at a time.
        encoder: Encodes the items of streams.
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
            namespace: Its name.
            limits: What one connection may ask for at a time.
            mechanisms: How callers may identify themselves; by default they need not.

        Raises:
            ValueError: The namespace is the registry's own, and would hide its methods.
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
        self._info = StreamContent(encode_value(info), namespace, INFO)
        self._hash_text = encode_value({"event": "hash", "value": self._hub.hash})
        hashes = {
            "namespace": namespace,
            "self_hash": self._hub.self_hash,
            "children_hash": self._hub.children_hash,
            "hash": self._hub.hash,
            "children": [{"namespace": NAMESPACE, "hash": self._registry.hash}],
        }
        self._hashes_text = encode_value(hashes)
        self._encoded: dict[tuple[str, str], str] = {}
        self._routes = self._make_routes()

    # Routing of a request.

    def route(self, method: str, params: object) -> Route:
        """Find out what a request asks for.

        Raises:
            MethodNotFoundError: No method has that name; the error names the nearest one.
            InvalidParamsError: The parameters are refused before anything is acknowledged.
        """
        find_route = self._routes.get(method)
        if find_route is not None:
            return find_route(params)
        raise MethodNotFoundError(
            f"Method not found: {clipped(method)}{_hint(method, self._routes)}",
            method=clipped(method),
            nearest=nearest(method, self._routes),
        )

    def _make_routes(self) -> dict[str, Callable[[object], Route]]:
        """Make the table of all methods of the port, with what reads their parameters."""
        hub = self.namespace
        streams: dict[str, Callable[[object], Stream]] = {
            INFO: lambda _: Stream(INFO, RESULT, self._info),
            f"{hub}.call": self._hub_call,
            f"{hub}.hash": lambda _: Stream(
                f"{hub}.hash", RESULT, self._static(self._hash_text, "hash")
            ),
            f"{hub}.schema": lambda params: Stream(
                f"{hub}.schema", RESULT, self._direct_schema(params)
            ),
        }
        ends = {
            f"{NAMESPACE}.unwatch": WATCH,
            **{f"{method}_unsub": method for method in streams},
            **{f"{NAMESPACE}_unsubscribe_{each.name}": _underscored(each) for each in METHODS},
        }
        return {
            **{f"{NAMESPACE}.{each.name}": partial(command_from, each) for each in METHODS},
            WATCH: _direct_watch,
            **streams,
            f"{hub}.respond": refuse_response,
            **{_underscored(each): partial(_underscored_call, each) for each in METHODS},
            **{end: partial(unsubscription, method) for end, method in ends.items()},
        }

    def _hub_call(self, params: object) -> Stream:
        method = f"{self.namespace}.call"
        inner, inner_params = call_parameters(params)
        return Stream(method, method, self._content(inner, inner_params))

    # Routing of the method inside a call.

    def _content(self, path: str, params: object) -> StreamContent:
        head, dot, rest = path.partition(".")
        if not dot:
            message = f"Invalid params: Invalid method format: {clipped(path)}"
            detail = {"kind": "invalid_params", "param": "method", "problem": "malformed"}
            return self._failed(CallFailure(message, -32602, {**detail, "detail": "no dot in it"}))
        if head == self.namespace:
            return self._in_hub(path, rest, params)
        if head == NAMESPACE:
            return self._in_registry(path, rest, params)
        return self._no_activation(head)

    def _in_hub(self, path: str, rest: str, params: object) -> StreamContent:
        name, dot, below = rest.partition(".")
        if name == NAMESPACE and dot:
            return self._in_registry(path, below, params)
        if below == "schema":
            return self._schema_of_one(self._hub, path, name)
        if dot:
            return self._no_activation(name)
        match name:
            case "hash":
                return self._static(self._hash_text, "hash")
            case "hashes":
                return self._static(self._hashes_text, "hashes")
            case "schema":
                return self._schema(self._hub, params)
            case "call":
                return self._nested(params)
            case _:
                return self._no_method(path, self.namespace, name, self._hub)

    def _in_registry(self, path: str, rest: str, params: object) -> StreamContent:
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

    def _nested(self, params: object) -> StreamContent:
        try:
            inner, inner_params = call_parameters(params)
        except InvalidParamsError as error:
            return self._failed(invalid_params(error))
        content = self._content(inner, inner_params)
        return StreamContent(content, self.namespace, f"{self.namespace}.call")

    # The content of streams.

    def _static(self, text: str, what: str) -> StreamContent:
        return StreamContent(text, self.namespace, f"{self.namespace}.{what}")

    def _failed(self, failure: CallFailure) -> StreamContent:
        return StreamContent(failure, self.namespace)

    def _no_activation(self, name: str) -> StreamContent:
        known = (self.namespace, NAMESPACE)
        detail = {
            "kind": "activation_not_found",
            "activation": clipped(name),
            "nearest": nearest(name, known),
        }
        message = f"Activation not found: {clipped(name)}{_hint(name, known)}"
        return self._failed(CallFailure(message, -32601, detail))

    def _no_method(self, path: str, activation: str, name: str, plugin: Plugin) -> StreamContent:
        known = plugin.method_names()
        detail = {
            "kind": "method_not_found",
            "activation": activation,
            "method": clipped(name),
            "nearest": nearest(name, known),
        }
        message = f"Method not found: {clipped(path)}{_hint(name, known, prefix=activation)}"
        return self._failed(CallFailure(message, -32601, detail))

    def _direct_schema(self, params: object) -> StreamContent:
        """Find the schema that a direct call asks for; a wrong name is refused at once."""
        content = self._schema(self._hub, params)
        if isinstance(content.source, CallFailure):
            raise InvalidParamsError(
                f"Parameter method is {shown(schema_of(params))}:"
                f" it must be one of {', '.join(self._hub.method_names())}",
                param="method",
                problem="malformed",
            )
        return content

    def _schema(self, plugin: Plugin, params: object) -> StreamContent:
        """Find the schema of a plugin, or of the one method that the parameters name."""
        name = schema_of(params)
        schema = plugin.schema() if name is None else None
        if isinstance(name, str):
            schema = plugin.method_schema(name)
        if schema is None:
            wanted = clipped(name) if isinstance(name, str) else shown(name)
            return self._no_method(f"{plugin.namespace}.{wanted}", plugin.namespace, wanted, plugin)
        return self._encoded_schema(plugin, "schema", schema, key=str(name or ""))

    def _schema_of_one(self, plugin: Plugin, path: str, name: str) -> StreamContent:
        """Find the schema of a plugin reduced to one method."""
        schema = plugin.schema_of_one(name)
        if schema is None:
            return self._no_method(path, plugin.namespace, name, plugin)
        return self._encoded_schema(plugin, f"{name}.schema", schema)

    def _encoded_schema(
        self, plugin: Plugin, what: str, schema: Schema, *, key: str = ""
    ) -> StreamContent:
        """Encode a schema, each only once."""
        content_type = f"{plugin.namespace}.{what}"
        text = self._encoded.get((content_type, key))
        if text is None:
            text = self._encoded[content_type, key] = encode_value(schema)
        return StreamContent(text, plugin.namespace, content_type)


def _direct_watch(params: object) -> Stream:
    command = command_from(BY_NAME["watch"], params)
    assert isinstance(command, Watch)  # noqa: S101 - its row in the table of methods
    return Stream(WATCH, EVENT, command)


def _underscored(method: Method) -> str:
    return f"{NAMESPACE}_{method.name}"


def _underscored_call(method: Method, params: object) -> Stream:
    name = _underscored(method)
    command = command_from(method, in_snake_case(method, params), ignore_unknown=True)
    return Stream(name, name, _report(method, command))


def _report(method: Method, command: Command) -> StreamContent:
    return StreamContent(command, NAMESPACE, f"{NAMESPACE}.{method.name}")


def _hint(word: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Name the known word that was most likely meant, if one is very near."""
    guess = nearest(word, known, least=0.7)
    return f" (did you mean {prefix + '.' if prefix else ''}{guess}?)" if guess else ""
