"""What hypothesis makes of the project's types: one function a type.

Everything is legal unless an argument says otherwise. Names, addresses and times come from
small alphabets, so that claims collide.
"""

from __future__ import annotations

import json
from functools import cache
from itertools import compress, product
from typing import TYPE_CHECKING

import msgspec
from hypothesis import strategies as st

from plexus_registry.rules.backend import (
    MANUAL_LAYERS,
    SOURCE_OF,
    Backend,
    Declaration,
    Layer,
    Record,
    Register,
    Source,
    Update,
)
from tests.fields import CLEARED

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from plexus_registry.rules.operations import Records

    Texts = dict[str, str | None]

NAMES = ("a", "b", "c", "hub-2.x_1")
HOSTS = ("127.0.0.1", "h", "H", "beta.example", "::1", "fe80::1%eth0")
SOURCE = {
    **dict.fromkeys(MANUAL_LAYERS, Source.MANUAL),
    Layer.ADOPTED: Source.FILE,
    **SOURCE_OF,
}


@cache
def names(*, wide: bool = False) -> SearchStrategy[str]:
    """Names of backends: a few that collide, or (`wide`) all that the rule allows."""
    every = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
    return every if wide else st.sampled_from(NAMES)


@cache
def hosts() -> SearchStrategy[str]:
    return st.sampled_from(HOSTS)


@cache
def ports(*, wide: bool = False) -> SearchStrategy[int]:
    return st.integers(1, 65535) if wide else st.sampled_from((1, 4444, 65535))


@cache
def addresses(*, wide: bool = False) -> SearchStrategy[tuple[str, int, str]]:
    """Host, port and protocol; few, so that they are often the same."""
    if wide:
        return st.tuples(hosts(), ports(wide=True), st.sampled_from(("ws", "wss")))
    few = [(host, 4444, "ws") for host in HOSTS]
    return st.sampled_from([*few, ("h", 1, "ws"), ("h", 4444, "wss"), ("::1", 65535, "wss")])


@cache
def texts(*, empty: bool = False, wide: bool = False) -> SearchStrategy[Texts]:
    """The fields that an empty text clears, each of them or none; with `wide` of any Unicode."""
    if wide:
        text = st.none() | st.text(min_size=0 if empty else 1, max_size=40)
        return st.fixed_dictionaries(dict.fromkeys(CLEARED, text))
    few = (None, "x", "Überwachung", "") if empty else (None, "x", "Überwachung")
    rows = product(few, repeat=len(CLEARED))
    return st.sampled_from([dict(zip(CLEARED, row, strict=True)) for row in rows])


@cache
def sources() -> SearchStrategy[Source]:
    return st.sampled_from(Source)


# What is drawn together is drawn as one: it costs a fifth of drawing it one by one.
TIMES = (1000, 1001, 1002)
_moments = st.sampled_from(list(product(TIMES, (None, *TIMES), TIMES, TIMES)))
_EXTRAS = ((None, None), ("1.0", None), (None, "{}"), ("2", '{"pid":1}'))
_extras = st.sampled_from(_EXTRAS)
_selves = st.sampled_from(list(product(("id-1", "id-2", "id-3"), (True, False), _EXTRAS)))
_claimable = st.sampled_from(("manual", "auto"))
_layers = st.sampled_from(Layer)
_booleans = st.booleans()
_three_booleans = st.tuples(_booleans, _booleans, _booleans)
_one_in_three = st.sampled_from((False, False, True))
_manual = ((), (Layer.RUNTIME,), (Layer.DATABASE,))
_declared = [layer for layer in Layer if layer not in MANUAL_LAYERS]
_lower = [
    tuple(compress(_declared, kept)) for kept in product((False, True), repeat=len(_declared))
]
_stacks = st.sampled_from([(*manual, *lower) for lower in _lower for manual in _manual])
_places = st.sampled_from(list(product(NAMES, Layer)))


@st.composite
def backends(
    draw: st.DrawFn,
    *,
    name: str | None = None,
    source: Source | None = None,
    is_active: bool | None = None,
    pings: bool | None = None,
    wide: bool = False,
) -> Backend:
    """Backends; an argument fixes what it names, `wide` takes any legal values."""
    host, port, protocol = draw(addresses(wide=wide))
    more = draw(texts(wide=wide))
    own_id, looks_active, (version, metadata) = draw(_selves)
    registered_at, last_seen, created_at, updated_at = draw(_moments)
    if pings is not None:
        last_seen = (last_seen or registered_at) if pings else None
    backend = Backend(
        id=own_id,
        name=draw(names(wide=wide)) if name is None else name,
        host=host,
        port=port,
        protocol=protocol,
        version=version,
        metadata=metadata,
        source=draw(sources()) if source is None else source,
        is_active=looks_active if is_active is None else is_active,
        registered_at=registered_at,
        last_seen=last_seen,
        created_at=created_at,
        updated_at=updated_at,
    )
    return msgspec.structs.replace(backend, **more)


@st.composite
def records(
    draw: st.DrawFn, *, name: str | None = None, layer: Layer | None = None, live_only: bool = False
) -> Record:
    """Records; tombstones only in the manual layers, and none with `live_only`."""
    name = draw(names()) if name is None else name
    layer = draw(_layers) if layer is None else layer
    if layer in MANUAL_LAYERS and not live_only and draw(_one_in_three):
        return Record(name=name, layer=layer, backend=None)
    backend = draw(backends(name=name, source=SOURCE[layer]))
    return Record(name=name, layer=layer, backend=backend)


def tombstones(*, name: str) -> SearchStrategy[Record]:
    manual = st.sampled_from(sorted(MANUAL_LAYERS))
    return manual.map(lambda layer: Record(name=name, layer=layer, backend=None))


@st.composite
def layers(draw: st.DrawFn, *, max_size: int = 8) -> tuple[Record, ...]:
    """Everything that all layers state: each name and layer at most once, in any order."""
    places = draw(st.lists(_places, max_size=max_size, unique=True))
    return tuple(draw(records(name=name, layer=layer)) for name, layer in places)


@st.composite
def records_of(draw: st.DrawFn, name: str) -> Records:
    """What the layers state about one name, highest first; one manual record at most."""
    return tuple(draw(records(name=name, layer=layer)) for layer in draw(_stacks))


@st.composite
def register_commands(
    draw: st.DrawFn, *, name: str | None = None, wide: bool = False, replace: bool | None = None
) -> Register:
    host, port, protocol = draw(addresses(wide=wide))
    more = draw(texts(empty=True, wide=wide))
    version, metadata = draw(_extras)
    return Register(
        name=draw(names(wide=wide)) if name is None else name,
        host=host,
        port=port,
        protocol=protocol,
        **more,
        version=version,
        metadata=None if metadata is None else json.loads(metadata),
        source=draw(_claimable),
        replace=draw(_booleans) if replace is None else replace,
    )


@st.composite
def update_commands(
    draw: st.DrawFn, *, name: str | None = None, moves: bool | None = None
) -> Update:
    """Updates; with `moves=False` only of what is no part of the address."""
    host, port, protocol = draw(addresses())
    gives_host, gives_port, gives_protocol = draw(_three_booleans)
    more = draw(texts(empty=True))
    return Update(
        name=draw(names()) if name is None else name,
        host=host if gives_host and moves is not False else None,
        port=port if gives_port and moves is not False else None,
        protocol=protocol if gives_protocol and moves is not False else None,
        **more,
    )


@st.composite
def declarations(draw: st.DrawFn, *, name: str | None = None, wide: bool = False) -> Declaration:
    host, port, protocol = draw(addresses(wide=wide))
    more = draw(texts(wide=wide))
    return Declaration(
        name=draw(names(wide=wide)) if name is None else name,
        host=host,
        port=port,
        protocol=protocol,
        **more,
    )


@cache
def json_values() -> SearchStrategy[object]:
    """JSON values that Python, msgspec and the standard library's json agree on."""
    number = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    scalars: SearchStrategy[object] = st.none() | st.booleans() | number | st.text(max_size=8)
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
