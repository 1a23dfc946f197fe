"""Host, Origin and tokens: who gets in, case by case and for any input at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.server.access_policy import (
    AccessPolicy,
    Grant,
    RequestHead,
    host_of,
    normalized_origin,
)

OPEN = AccessPolicy(hosts=["Registry.Example.com", "fd00::1"])
LOCAL = "192.168.1.5"


def asking(**fields: str) -> RequestHead:
    return RequestHead(
        method="GET",
        target=fields.pop("target", "/"),
        fields=[(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in fields.items()],
    )


def status(access_policy: AccessPolicy, head: RequestHead) -> int:
    refusal = access_policy.refusal(head, local=LOCAL)
    return 200 if refusal is None else refusal.status


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:4445",
        "127.0.0.1",
        "127.0.0.1:4445",
        "127.3.2.1",
        "[::1]:4445",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "192.168.1.5:80",
        "registry.example.com",
        "REGISTRY.example.com.:443",
        "[fd00:0::1]:4445",
    ],
)
def test_a_host_of_ours_is_answered(host: str) -> None:
    assert status(OPEN, asking(host=host)) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "192.168.1.6",
        "10.0.0.1",
        "0.0.0.0",  # noqa: S104 - not bound to
        "[::2]",
        "[::1",
        "::1",
        "localhost@evil.example",
        "evil.example/localhost",
        "localhost, evil.example",
        "localhost:80:80",
        "",
        "example.com",
        "x.registry.example.com",
        "2130706433",
        "127.1",
        "\xe9",
        "\xa0localhost",
        ".",
        "localhost..",
        "127.0.0.1%evil.com",
        "[::1%evil.com]",
        "[127.0.0.1]",
        "localhost:65536",
    ],
)
def test_any_other_host_is_misdirected(host: str) -> None:
    assert status(OPEN, asking(host=host)) == 421


def test_two_hosts_are_refused() -> None:
    fields = [(b"host", b"localhost"), (b"host", b"localhost")]
    assert status(OPEN, RequestHead(method="GET", target="/", fields=fields)) == 421


GUESTS = AccessPolicy(origins=["https://Tools.example.com", "app://x:7", "http://h:8080"])


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",
        "https://localhost:3000",
        "http://127.0.0.1:5173",
        "http://[::1]:8000",
        "tauri://localhost",
        "http://tauri.localhost",
        "https://tauri.localhost",
        "https://tools.example.com",
        "https://tools.example.com:443",
        "http://h:8080",
        "app://x:7",
    ],
)
def test_a_page_of_this_machine_or_a_guest_gets_in(origin: str) -> None:
    assert status(GUESTS, asking(host="localhost", origin=origin)) == 200


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "\xa0http://localhost",
        "http://127.0.0.1%.evil.com:80",
        "http://[127.0.0.1]",
        "http://.",
        "http://localhost..",
        "http://localhost:65536",
        "",
        "https://evil.example",
        "http://localhost.evil.example",
        "http://evil.example#localhost",
        "http://localhost@evil.example",
        "http://tools.example.com",
        "https://tools.example.com:8443",
        "https://x.tools.example.com",
        "http://h",
        "https://h:8080",
        "file://",
        "ftp://localhost",
        "chrome-extension://abcdefgh",
        "tauri://evil",
        "http://localhost http://evil.example",
        "http://192.168.1.5:4445",
        "localhost",
    ],
)
def test_any_other_page_does_not(origin: str) -> None:
    refusal = GUESTS.refusal(asking(host="localhost", origin=origin), local=LOCAL)
    assert refusal is not None
    assert refusal.status == 403
    assert "--allow-origin" in refusal.log
    assert "--allow-origin" in refusal.text


def test_an_origin_that_equals_the_host_proves_nothing() -> None:
    assert (
        status(OPEN, asking(host="registry.example.com", origin="http://registry.example.com"))
        == 403
    )


def test_two_origins_are_refused() -> None:
    fields = [(b"host", b"localhost"), *[(b"origin", b"http://localhost")] * 2]
    assert status(OPEN, RequestHead(method="GET", target="/", fields=fields)) == 403


@given(value=st.text(st.characters(max_codepoint=255)))
def test_a_refusal_escapes_what_was_sent(value: str) -> None:
    for head in (asking(host=value), asking(host="localhost", origin=value)):
        refusal = OPEN.refusal(head, local=LOCAL)
        if refusal is not None:
            assert refusal.text.isprintable()
            assert refusal.log.isprintable()
            assert max(len(refusal.text), len(refusal.log)) < 300
    assert OPEN.grant(asking(cookie=value, authorization=value, target="/?" + value)) is Grant.ALL


@given(value=st.text())
def test_normalizing_again_changes_nothing(value: str) -> None:
    for normalize in (host_of, normalized_origin):
        once = normalize(value)
        if once is not None and ":" not in once.partition("://")[2]:
            assert normalize(once) == once or ":" in once


KEYED = AccessPolicy(token="a=b;c", read_token="look")  # noqa: S106 - for the tests


@pytest.mark.parametrize(
    ("fields", "grant"),
    [
        ({}, Grant.NOTHING),
        ({"x_plexus_api_key": "a=b;c"}, Grant.ALL),
        ({"x_plexus_api_key": "look"}, Grant.READ),
        ({"x_plexus_api_key": "Look"}, Grant.NOTHING),
        ({"x_plexus_api_key": ""}, Grant.NOTHING),
        ({"authorization": "Bearer a=b;c"}, Grant.ALL),
        ({"authorization": "bearer  look "}, Grant.READ),
        ({"authorization": "Basic look"}, Grant.NOTHING),
        ({"authorization": "look"}, Grant.NOTHING),
        ({"cookie": "a=1; access_token=look; b=2"}, Grant.READ),
        ({"cookie": "xaccess_token=look"}, Grant.NOTHING),
        ({"cookie": "access_token=jwt.of.somebody", "authorization": "Bearer a=b;c"}, Grant.ALL),
        ({"cookie": "access_token=look", "authorization": "Bearer a=b;c"}, Grant.ALL),
        ({"target": "/?access_token=look"}, Grant.NOTHING),
    ],
)
def test_what_a_token_allows(fields: dict[str, str], grant: Grant) -> None:
    assert KEYED.grant(asking(**fields)) is grant


PUBLIC = AccessPolicy(token="a=b;c", public_reads=True, allow_url_token=True)  # noqa: S106


@pytest.mark.parametrize(
    ("fields", "grant"),
    [
        ({}, Grant.READ),
        ({"authorization": "Basic look"}, Grant.READ),
        ({"cookie": "theme=dark"}, Grant.READ),
        ({"x_plexus_api_key": "a=b;c"}, Grant.ALL),
        ({"x_plexus_api_key": "wrong"}, Grant.NOTHING),
        ({"x_plexus_api_key": ""}, Grant.NOTHING),
        ({"authorization": "Bearer wrong"}, Grant.NOTHING),
        ({"cookie": "access_token=wrong"}, Grant.NOTHING),
        ({"target": "/?access_token=wrong"}, Grant.NOTHING),
        ({"cookie": "access_token=wrong", "authorization": "Bearer a=b;c"}, Grant.ALL),
    ],
)
def test_public_reads_are_for_those_who_show_no_token(fields: dict[str, str], grant: Grant) -> None:
    assert PUBLIC.grant(asking(**fields)) is grant


def test_a_token_in_the_url_counts_where_that_is_allowed() -> None:
    access_policy = AccessPolicy(token="a b+c", allow_url_token=True)  # noqa: S106
    assert access_policy.grant(asking(target="/?x=1&access_token=a%20b%2Bc")) is Grant.ALL
    assert access_policy.grant(asking(target="/access_token=a")) is Grant.NOTHING
    assert access_policy.grant(asking(target="/?" + "&" * 5000)) is Grant.NOTHING


@given(value=st.text(st.characters(max_codepoint=255)))
def test_no_other_token_opens(value: str) -> None:
    fields = {"cookie": f"access_token={value}", "x_plexus_api_key": value}
    access_policy = AccessPolicy(token="\x7f" * 70, allow_url_token=True)
    head = asking(**fields, authorization="Bearer " + value, target="/?access_token=" + value)
    assert access_policy.grant(head) is Grant.NOTHING
