"""Plexus Registry: service discovery for Plexus hubs, as a process or inside one.

Names are loaded when they are first used: whoever only wants one pays for no other.
"""

from __future__ import annotations

from plexus_registry._version import VERSION

__version__ = VERSION

# Not imported: loading `typing` takes longer than all else that comes before Ctrl-C is handled.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from plexus_registry.app import open_registry, serve
    from plexus_registry.client.announcement import announce
    from plexus_registry.client.connection import RegistryClient, connect
    from plexus_registry.client.discovery import Discovered, discover
    from plexus_registry.client.events import WatchEvent
    from plexus_registry.client.keeper import Announcement, Status
    from plexus_registry.core.commands import Register, Update
    from plexus_registry.core.errors import (
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
    from plexus_registry.core.events import (
        BackendActive,
        BackendDeleted,
        BackendRegistered,
        BackendStale,
        BackendUpdated,
        Compacted,
        Reloaded,
        Snapshot,
    )
    from plexus_registry.core.model import Backend, Health, Source, State
    from plexus_registry.service import Registry
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
    "client.announcement": ("announce",),
    "app": ("open_registry", "serve"),
    "client.connection": ("RegistryClient", "connect"),
    "client.events": ("WatchEvent",),
    "client.keeper": ("Announcement", "Status"),
    "core.commands": ("Register", "Update"),
    "core.errors": (
        "ConfigError",
        "ConfigInvalid",
        "InvalidParamsError",
        "MethodError",
        "NameTaken",
        "NotFound",
        "ProtocolError",
        "RegistryError",
        "RegistryUnavailableError",
        "StartError",
        "StorageFailed",
        "UrlError",
        "WatchEnded",
    ),
    "core.events": (
        "BackendActive",
        "BackendDeleted",
        "BackendRegistered",
        "BackendStale",
        "BackendUpdated",
        "Compacted",
        "Reloaded",
        "Snapshot",
    ),
    "core.model": ("Backend", "Health", "Source", "State"),
    "client.discovery": ("Discovered", "discover"),
    "service": ("Registry",),
    "settings": ("Settings",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value
