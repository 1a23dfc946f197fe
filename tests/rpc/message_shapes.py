"""What a backend must look like on the wire, written without the code that encodes it."""

from __future__ import annotations

import json

import msgspec

from plexus_registry.rules.backend import Backend, Source
from tests.fields import MEMBERS, OPTIONAL

# Source: manual/protocol.md, "Backends".
OMITTED_WHEN_NULL = {*OPTIONAL, "last_seen"}


def fresh(backend: Backend) -> dict[str, object]:
    """A backend as it must be on the wire."""
    values = {member: getattr(backend, member) for member in MEMBERS}
    return {
        member: value
        for member, value in values.items()
        if value is not None or member not in OMITTED_WHEN_NULL
    }


def decoded(text: str) -> dict[str, object]:
    value = json.loads(text)
    assert isinstance(value, dict)
    return value


FULL = Backend(
    id="i",
    name="a",
    host="h",
    port=1,
    protocol="ws",
    description="é\n",
    namespace="n",
    version="1",
    metadata='{"k":1}',
    source=Source.AUTO,
    is_active=False,
    registered_at=1,
    last_seen=2,
    created_at=3,
    updated_at=4,
)
FULL_TEXT = (
    '{"id":"i","name":"a","host":"h","port":1,"protocol":"ws","description":"é\\n","namespace":"n",'
    '"version":"1","metadata":"{\\"k\\":1}","source":"auto","is_active":false,"registered_at":1,'
    '"last_seen":2,"created_at":3,"updated_at":4}'
)
BARE = msgspec.structs.replace(FULL, **dict.fromkeys(OMITTED_WHEN_NULL))
BARE_TEXT = (
    '{"id":"i","name":"a","host":"h","port":1,"protocol":"ws","source":"auto","is_active":false,'
    '"registered_at":1,"created_at":3,"updated_at":4}'
)
