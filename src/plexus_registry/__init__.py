"""Plexus Registry: service discovery for Plexus hubs, as a process or inside one.

A name is loaded when it is first used, so that a program pays only for what it uses.
"""

from __future__ import annotations

__version__ = "0.1.0"

# Not imported from `typing`: loading that would take longer than everything else before Ctrl-C
# is handled.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from plexus_registry.app import open_registry, serve
    from plexus_registry.client.announce import Announcement, Status, announce
    from plexus_registry.client.connection import Discovered, RegistryClient, connect, discover
    from plexus_registry.client.exchange import WatchEvent
    from plexus_registry.registry import Registry
    from plexus_registry.rules.backend import Backend, Health, Register, Source, State, Update
    from plexus_registry.rules.errors import (
        ConfigError,
        ConfigInvalid,
        InvalidParamsError,
        MethodError,
        NameTaken,
        NotFound,
        ProtocolError,
        RegistryError,
        RegistryUnavailableError,
        StartError,
        StorageFailed,
        UrlError,
        WatchEnded,
    )
    from plexus_registry.rules.events import (
        BackendActive,
        BackendDeleted,
        BackendRegistered,
        BackendStale,
        BackendUpdated,
        Compacted,
        Reloaded,
        Snapshot,
    )
    from plexus_registry.settings import Settings

__all__ = [
    "Announcement",
    "Backend",
    "BackendActive",
    "BackendDeleted",
    "BackendRegistered",
    "BackendStale",
    "BackendUpdated",
    "Compacted",
    "ConfigError",
    "ConfigInvalid",
    "Discovered",
    "Health",
    "InvalidParamsError",
    "MethodError",
    "NameTaken",
    "NotFound",
    "ProtocolError",
    "Register",
    "Registry",
    "RegistryClient",
    "RegistryError",
    "RegistryUnavailableError",
    "Reloaded",
    "Settings",
    "Snapshot",
    "Source",
    "StartError",
    "State",
    "Status",
    "StorageFailed",
    "Update",
    "UrlError",
    "WatchEnded",
    "WatchEvent",
    "__version__",
    "announce",
    "connect",
    "discover",
    "open_registry",
    "serve",
]

_HOMES = {
    "app": "open_registry serve",
    "client.announce": "Announcement Status announce",
    "client.connection": "Discovered RegistryClient connect discover",
    "client.exchange": "WatchEvent",
    "registry": "Registry",
    "rules.backend": "Backend Health Register Source State Update",
    "rules.errors": "ConfigError ConfigInvalid InvalidParamsError MethodError NameTaken NotFound"
    " ProtocolError RegistryError RegistryUnavailableError StartError StorageFailed UrlError"
    " WatchEnded",
    "rules.events": "BackendActive BackendDeleted BackendRegistered BackendStale BackendUpdated"
    " Compacted Reloaded Snapshot",
    "settings": "Settings",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value
