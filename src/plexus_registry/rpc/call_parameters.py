"""The many forms in which Plexus clients write parameters, read leniently.

Source: manual/protocol.md, "Parameters in a call".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from plexus_registry.rpc.streams import CallFailure, Unsubscribe
from plexus_registry.rules.errors import InvalidParamsError, clipped, shown
from plexus_registry.rules.methods import Method, Reload, command_from

if TYPE_CHECKING:
    from plexus_registry.rules.parameters import Command


def call_parameters(params: object) -> tuple[str, object]:
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
    if not isinstance(method, str):
        raise InvalidParamsError(
            f"Parameter method is {shown(method)}: it must be a string",
            param="method",
            problem="malformed",
        )
    return method, inner


def command_in_call(method: Method, params: object) -> Command:
    """Make the command of a call through the hub.

    The parameters are an object, or absent, or a bare value if the method has one parameter.
    Unknown members are ignored. Source: manual/protocol.md, "Parameters in a call".
    """
    if method.command is Reload:
        return Reload()
    parameters = method.command.parameters
    if params is not None and not isinstance(params, dict):
        if len(parameters) != 1 or isinstance(params, list):
            raise InvalidParamsError(f"expected object, got {shown(params)}", problem="malformed")
        params = {parameters[0].name: params}
    return command_from(method, params, ignore_unknown=True)


def invalid_params(error: InvalidParamsError) -> CallFailure:
    """Turn an error in the parameters of the inner call into a failure of the stream."""
    param, problem = error.data.get("param"), error.data.get("problem")
    if problem == "missing":
        detail: dict[str, object] = {"param": param, "problem": "missing"}
        message = f"missing field: {param}"
    else:
        detail = {"param": param, "problem": "malformed", "detail": error.message}
        message = error.message
    return CallFailure(
        f"Invalid params: {message}", error.code, {"kind": "invalid_params", **detail}
    )


def in_snake_case(method: Method, params: object) -> object:
    """Accept `activeOnly` for `active_only`, as generated clients write it.

    Members that the method does not know are dropped: there may be any number of them.
    """
    if not isinstance(params, dict):
        return params
    names = [parameter.name for parameter in method.command.parameters]
    spellings = [(spelling, name) for name in names for spelling in (_in_camel_case(name), name)]
    return {name: params[spelling] for spelling, name in spellings if spelling in params}


def _in_camel_case(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


def schema_of(params: object) -> object:
    """Read the method whose schema is wanted; None means the whole schema."""
    if isinstance(params, dict):
        return params.get("method")
    if isinstance(params, list) and params:
        first: object = params[0]
        return first
    return None


def unsubscription(method: str, params: object) -> Unsubscribe:
    """Read the number of a method's stream to end, if there is one."""
    if isinstance(params, list) and len(params) == 1 and type(params[0]) is int:
        return Unsubscribe(method, params[0])
    return Unsubscribe(method, None)


def refuse_response(params: object) -> NoReturn:
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
