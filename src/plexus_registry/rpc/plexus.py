"""The Plexus hub: what each call means.

Theory of operation. A request is routed by one look into a table to one of three things: a command,
answered with one response; an `Unsubscribe`; or a `Stream`, acknowledged with a number and followed
by items. `HUB.call` looks for the method inside in a second table: the registry's methods, the
hub's own, and the schemas of both. What stands in neither table is answered with the nearest name.
Parameters are read leniently, in the many forms in which Plexus clients write them.

Source: manual/protocol.md, "Hub methods", "Routing of a call" and "Parameters in a call".
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NoReturn

from plexus_registry import __version__
from plexus_registry.rpc.schema import Plugin, hub_plugin, registry_plugin
from plexus_registry.rpc.streams import (
    CallFailure,
    Level,
    Route,
    Stream,
    StreamEncoder,
    Unsubscribe,
)
from plexus_registry.rules.errors import InvalidParamsError, MethodNotFoundError, clipped, shown
from plexus_registry.rules.events import encode_value
from plexus_registry.rules.methods import (
    BY_NAME,
    METHODS,
    NAMESPACE,
    Method,
    Reload,
    command_from,
    nearest,
)
from plexus_registry.rules.parameters import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from plexus_registry.rules.parameters import Command

    FindSource = Callable[[object], Command | str | CallFailure]

INFO = "_info"
RESULT = "result"
"""The method of notifications of `_info`, `HUB.hash` and `HUB.schema`."""
WATCH = f"{NAMESPACE}.watch"
EVENT = f"{NAMESPACE}.event"
"""The method of notifications of a direct watch."""


class Hub:
    """One hub with the registry below it; `limits` are those of one connection."""

    def __init__(
        self,
        namespace: str,
        *,
        limits: Limits | None = None,
        mechanisms: tuple[Mapping[str, str], ...] = (),
    ) -> None:
        """Describe the hub; ValueError if its name would hide the registry's methods.

        `mechanisms` says how callers may identify themselves; by default they need not.
        """
        if namespace == NAMESPACE:
            raise ValueError(f"a hub called {NAMESPACE} would hide the registry's methods")
        self.limits = limits or Limits()
        self._namespace = namespace
        self._registry = registry_plugin()
        self._hub = hub_plugin(namespace, self._registry)
        self._call = f"{namespace}.call"
        self._failed = self._encoder(self._call, self._call, "")
        info = {
            "backend": namespace,
            "version": __version__,
            "auth_capabilities": {"mechanisms": mechanisms or ({"kind": "anonymous"},)},
            "limits": self.limits,
        }
        hash_text = encode_value({"event": "hash", "value": self._hub.hash})
        self._routes = self._make_routes(encode_value(info), hash_text)
        self._calls = self._make_calls(hash_text)

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

    def has_method(self, name: str) -> bool:
        """Whether a request can have a method."""
        return name in self._routes

    def _make_routes(self, info: str, hash_text: str) -> dict[str, Callable[[object], Route]]:
        """Make the table of all methods of the port, with what reads their parameters."""
        hub = self._namespace
        info_stream = Stream(self._encoder(INFO, RESULT, INFO), info)
        hash_stream = Stream(self._encoder(f"{hub}.hash", RESULT, f"{hub}.hash"), hash_text)
        schemas = self._encoder(f"{hub}.schema", RESULT, f"{hub}.schema")
        watches = StreamEncoder(WATCH, EVENT, self._hub.hash, ())
        streams: dict[str, Callable[[object], Stream]] = {
            INFO: lambda _: info_stream,
            self._call: self._route_call,
            f"{hub}.hash": lambda _: hash_stream,
            f"{hub}.schema": partial(self._direct_schema, schemas),
        }
        underscored: dict[str, Callable[[object], Stream]] = {}
        ends = {f"{NAMESPACE}.unwatch": WATCH, **{f"{each}_unsub": each for each in streams}}
        for each in METHODS:
            name = f"{NAMESPACE}_{each.name}"
            encoder = self._encoder(name, name, f"{NAMESPACE}.{each.name}", NAMESPACE)
            underscored[name] = partial(_underscored_stream, encoder, each)
            ends[f"{NAMESPACE}_unsubscribe_{each.name}"] = name
        return {
            **{f"{NAMESPACE}.{each.name}": partial(command_from, each) for each in METHODS},
            WATCH: lambda params: Stream(watches, command_from(BY_NAME["watch"], params)),
            **streams,
            f"{hub}.respond": _refuse_response,
            **underscored,
            **{end: partial(_unsubscription, method) for end, method in ends.items()},
        }

    def _make_calls(self, hash_text: str) -> dict[str, tuple[StreamEncoder, FindSource]]:
        """Make the table of the methods inside a call, with what finds their source."""
        hub = self._namespace
        hashes: dict[str, object] = {
            name: getattr(self._hub, name)
            for name in ("namespace", "self_hash", "children_hash", "hash")
        }
        hashes["children"] = [{"namespace": NAMESPACE, "hash": self._registry.hash}]
        hashes_text = encode_value(hashes)
        in_registry: dict[str, FindSource] = {
            each.name: partial(_lenient_command, each) for each in METHODS
        }
        in_hub: dict[str, FindSource] = {
            "hash": lambda _: hash_text,
            "hashes": lambda _: hashes_text,
        }
        calls: dict[str, tuple[StreamEncoder, FindSource]] = {}
        for plugin, found, ways in (
            (self._hub, in_hub, (hub,)),
            (self._registry, in_registry, (NAMESPACE, f"{hub}.{NAMESPACE}")),
        ):
            found["schema"] = partial(_schema, plugin)
            for name in plugin.methods:
                found[f"{name}.schema"] = partial(_schema_of_one, plugin, name)
            for name, find in found.items():
                content_type = f"{plugin.namespace}.{name}"
                encoder = self._encoder(self._call, self._call, content_type, plugin.namespace)
                calls.update({f"{way}.{name}": (encoder, find) for way in ways})
        return calls

    def _encoder(
        self, method: str, notification: str, content_type: str, provenance: str | None = None
    ) -> StreamEncoder:
        level = Level(provenance or self._namespace, content_type)
        return StreamEncoder(method, notification, self._hub.hash, (level,))

    def _route_call(self, params: object) -> Stream:
        path, inner = _call_parameters(params)
        known = self._calls.get(path)
        try:
            if known is not None:
                encoder, find_source = known
                source = find_source(inner)
                if not isinstance(source, CallFailure):
                    return Stream(encoder, source)
            elif path == self._call:
                stream = self._route_call(inner)
                level = Level(self._namespace, self._call)
                return Stream(stream.encoder.inside(level), stream.source)
            else:
                source = self._unknown(path)
        except InvalidParamsError as error:
            source = _invalid_params(error)
        return Stream(self._failed, source)

    def _unknown(self, path: str) -> CallFailure:
        """Explain that a path is not in the table of calls."""
        head, dot, rest = path.partition(".")
        if not dot:
            message = f"Invalid params: Invalid method format: {clipped(path)}"
            detail = {"kind": "invalid_params", "param": "method", "problem": "malformed"}
            return CallFailure(message, -32602, {**detail, "detail": "no dot in it"})
        plugin = self._registry if head == NAMESPACE else self._hub
        if head == self._namespace and rest.startswith(f"{NAMESPACE}."):
            plugin, rest = self._registry, rest.removeprefix(f"{NAMESPACE}.")
        elif head not in (self._namespace, NAMESPACE):
            return self._no_activation(head)
        name, dot, below = rest.partition(".")
        if below == "schema":
            return _no_method(path, plugin, name)
        if dot and plugin is self._hub:
            return self._no_activation(name)
        return _no_method(path, plugin, rest)

    def _no_activation(self, name: str) -> CallFailure:
        known = (self._namespace, NAMESPACE)
        detail = {
            "kind": "activation_not_found",
            "activation": clipped(name),
            "nearest": nearest(name, known),
        }
        message = f"Activation not found: {clipped(name)}{_hint(name, known)}"
        return CallFailure(message, -32601, detail)

    def _direct_schema(self, encoder: StreamEncoder, params: object) -> Stream:
        """Find the schema that a direct call asks for; a wrong name is refused at once."""
        source = _schema(self._hub, params)
        if not isinstance(source, CallFailure):
            return Stream(encoder, source)
        given, known = shown(_wanted_schema(params)), ", ".join(self._hub.methods)
        message = f"Parameter method is {given}: it must be one of {known}"
        raise InvalidParamsError(message, param="method", problem="malformed")


def _schema(plugin: Plugin, params: object) -> str | CallFailure:
    """Find the schema of a plugin, or of the one method that the parameters name."""
    name = _wanted_schema(params)
    if name is None:
        return plugin.text
    if isinstance(name, str) and name in plugin.methods:
        return encode_value(plugin.methods[name])
    wanted = clipped(name) if isinstance(name, str) else shown(name)
    return _no_method(f"{plugin.namespace}.{wanted}", plugin, wanted)


def _schema_of_one(plugin: Plugin, name: str, _params: object) -> str:
    return encode_value(plugin.schema(only=name))


def _hint(word: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Name the known word that was most likely meant, if one is very near."""
    guess = nearest(word, known, least=0.7)
    return f" (did you mean {prefix + '.' if prefix else ''}{guess}?)" if guess else ""


def _no_method(path: str, plugin: Plugin, name: str) -> CallFailure:
    known = plugin.methods
    detail = {
        "kind": "method_not_found",
        "activation": plugin.namespace,
        "method": clipped(name),
        "nearest": nearest(name, known),
    }
    message = f"Method not found: {clipped(path)}{_hint(name, known, prefix=plugin.namespace)}"
    return CallFailure(message, -32601, detail)


def _invalid_params(error: InvalidParamsError) -> CallFailure:
    """Turn an error in the parameters of the inner call into a failure of the stream."""
    message = error.message
    detail: dict[str, object] = {"problem": "malformed", "detail": message}
    if error.data.get("problem") == "missing":
        message, detail = f"missing field: {error.data['param']}", {"problem": "missing"}
    detail = {"kind": "invalid_params", "param": error.data.get("param"), **detail}
    return CallFailure(f"Invalid params: {message}", error.code, detail)


# Parameters, in the forms in which clients write them.


def _call_parameters(params: object) -> tuple[str, object]:
    """Read `{"method", "params"?}` or `[method, params?]`; other members are ignored."""
    method = inner = None
    if isinstance(params, dict):
        method, inner = params.get("method"), params.get("params")
    elif isinstance(params, list):
        method, inner = (*params[:2], None, None)[:2]
    if method is None:
        raise InvalidParamsError(
            "Missing parameter method: it must be the method to call, as registry.list",
            param="method",
            problem="missing",
        )
    if isinstance(method, str):
        return method, inner
    message = f"Parameter method is {shown(method)}: it must be a string"
    raise InvalidParamsError(message, param="method", problem="malformed")


def _lenient_command(method: Method, params: object) -> Command:
    """Make a command of an object, or of a bare value if the method has one parameter."""
    if method.command is Reload:
        return Reload()
    if params is not None and not isinstance(params, dict):
        parameters = method.command.parameters
        if len(parameters) != 1 or isinstance(params, list):
            raise InvalidParamsError(f"expected object, got {shown(params)}", problem="malformed")
        params = {parameters[0].name: params}
    return command_from(method, params, ignore_unknown=True)


def _underscored_stream(encoder: StreamEncoder, method: Method, params: object) -> Stream:
    """Accept `activeOnly` for `active_only`, as generated clients write it."""
    if isinstance(params, dict):
        given = {}
        for parameter in method.command.parameters:
            first, *rest = parameter.name.split("_")
            for spelling in (first + "".join(map(str.capitalize, rest)), parameter.name):
                if spelling in params:
                    given[parameter.name] = params[spelling]
        params = given
    return Stream(encoder, command_from(method, params, ignore_unknown=True))


def _wanted_schema(params: object) -> object:
    """Read the method whose schema is wanted; None means the whole schema."""
    if isinstance(params, list):
        params = {"method": params[0] if params else None}
    return params.get("method") if isinstance(params, dict) else None


def _unsubscription(method: str, params: object) -> Unsubscribe:
    if isinstance(params, list) and len(params) == 1 and type(params[0]) is int:
        return Unsubscribe(method, params[0])
    return Unsubscribe(method, None)


def _refuse_response(params: object) -> NoReturn:
    """Refuse a response to a request of the hub, which never makes requests."""
    request_id = params.get("request_id") if isinstance(params, dict) else None
    if not isinstance(request_id, str):
        raise InvalidParamsError(
            "Missing parameter request_id: it must be the id of a request that the hub made",
            param="request_id",
            problem="missing",
        )
    raise InvalidParamsError(
        f"Unknown request ID: {clipped(request_id)}."
        " The request may have timed out or been cancelled.",
        param="request_id",
        problem="unknown",
    )
