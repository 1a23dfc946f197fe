"""The golden exchanges, each against a fresh server process over a real WebSocket.

All vectors that are asked for run at once, a few processes at a time, before the first test
looks at its own; a process takes most of a second to start.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from tests.e2e.harness import Peer, dial, running_registry
from tests.e2e.matcher import differences
from tests.e2e.test_adoption import write_original

if TYPE_CHECKING:
    from collections.abc import Mapping

SERVERS_AT_ONCE = 4
SILENCE_SECONDS = 0.5
ANSWER_SECONDS = 5
SUITE_SECONDS = 240
OPTIONS = ("--no-auto-register", "--poll-interval=3600")

MARKER = '{"jsonrpc":"2.0","id":"marker","method":"registry.get","params":{"name":"marker"}}'
MARKED = {"jsonrpc": "2.0", "id": "marker", "result": {"type": "backend", "backend": None}}


@dataclass(frozen=True, slots=True)
class State:
    """What every vector starts from."""

    backends: list[dict[str, object]]
    config_at_start: str
    config_now: str


@dataclass(frozen=True, slots=True)
class Vector:
    """One frame to send, and the frames to come."""

    name: str
    send: str
    expect: list[object]


@dataclass(frozen=True, slots=True)
class Transcript:
    """What came: as many frames as expected, and the one after them.

    Attributes:
        frames: The frames, fewer where no more came in time.
        after: The answer to the marker that was sent next, or whatever came in its place; None
            where nothing came.
        log: What the server logged.
    """

    frames: list[object]
    after: object
    log: str


def _read_vectors() -> tuple[State, list[Vector]]:
    lines = Path(__file__).with_name("vectors.jsonl").read_text().splitlines()
    state, *vectors = [json.loads(line) for line in lines]
    return (
        State(state["backends"], state["config_file_at_start"], state["config_file_now"]),
        [Vector(each["name"], _text(each["send"]), each["expect"]) for each in vectors],
    )


def _text(send: object) -> str:
    return send if isinstance(send, str) else json.dumps(send)


STATE, VECTORS = _read_vectors()


async def serve_connection(folder: Path, vector: Vector) -> Transcript:
    """Bring a server into the state, send one frame on a new connection, and take what comes."""
    write_original(folder, STATE.backends)
    config = trio.Path(folder / "backends.toml")
    await config.write_text(STATE.config_at_start)
    async with running_registry(folder, *OPTIONS) as server:
        await config.write_text(STATE.config_now)
        async with dial(server.url) as peer:
            await peer.ws.send_message(vector.send)
            frames: list[object] = []
            with trio.move_on_after(ANSWER_SECONDS):
                while len(frames) < len(vector.expect):
                    frames.append(await peer.receive())
            after = await _what_follows(peer, is_silent=not vector.expect)
        return Transcript(frames, after, server.log)


async def _what_follows(peer: Peer, *, is_silent: bool) -> object:
    """Wait for silence where it is expected; elsewhere ask for the marker and take one frame."""
    if not is_silent:
        await peer.ws.send_message(MARKER)
    with trio.move_on_after(SILENCE_SECONDS if is_silent else ANSWER_SECONDS):
        return await peer.receive()
    return None


async def converse_all(
    folders: Mapping[str, Path], vectors: list[Vector]
) -> dict[str, Transcript | Exception]:
    """Run vectors, a few at a time, and give what came of each."""
    transcripts: dict[str, Transcript | Exception] = {}
    limiter = trio.CapacityLimiter(SERVERS_AT_ONCE)

    async def run(vector: Vector) -> None:
        async with limiter:
            try:
                transcripts[vector.name] = await serve_connection(folders[vector.name], vector)
            except Exception as error:  # noqa: BLE001 - raised by the vector's own test
                transcripts[vector.name] = error

    with trio.fail_after(SUITE_SECONDS):
        async with trio.open_nursery() as nursery:
            for vector in vectors:
                nursery.start_soon(run, vector)
    return transcripts


@pytest.fixture(scope="module")
def transcripts(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Transcript | Exception]:
    """What came of the vectors that this session asks for."""
    wanted = {item.name for item in request.session.items}
    vectors = [each for each in VECTORS if f"test_vector[{each.name}]" in wanted]
    folders = {each.name: tmp_path_factory.mktemp(each.name) for each in vectors}
    return trio.run(converse_all, folders, vectors)


@pytest.mark.slow
@pytest.mark.parametrize("vector", VECTORS, ids=[vector.name for vector in VECTORS])
def test_vector(vector: Vector, transcripts: dict[str, Transcript | Exception]) -> None:
    transcript = transcripts[vector.name]
    if isinstance(transcript, Exception):
        raise transcript
    found = differences(transcript.frames, vector.expect)
    assert not found, "\n".join(found)
    assert transcript.after == (MARKED if vector.expect else None)
    assert "ERROR" not in transcript.log


def test_the_file_holds_every_vector() -> None:
    assert len(VECTORS) == len({vector.name for vector in VECTORS}) == 43


# A matcher that lets everything pass would make the vectors worthless.
DIFFERENT: list[tuple[str, list[object], list[object]]] = [
    ("other value", [{"a": 1}], [{"a": 2}]),
    ("true is no 1", [{"a": True}], [{"a": 1}]),
    ("1.0 is no 1", [{"a": 1.0}], [{"a": 1}]),
    ("missing member", [{"a": 1}], [{"a": 1, "b": None}]),
    ("surplus member", [{"a": 1, "b": None}], [{"a": 1}]),
    ("missing frame", [], [{}]),
    ("surplus frame", [{}, {}], [{}]),
    ("array too long", [{"a": [1, 2]}], [{"a": [1]}]),
    ("other order of elements", [{"a": [2, 1]}], [{"a": [1, 2]}]),
    ("two values of <int>", [{"id": 7}, {"id": 8}], [{"id": "<int>"}, {"id": "<int>"}]),
    ("<int> as text", ["7"], ["<int>"]),
    ("<int> as fraction", [7.0], ["<int>"]),
    ("<int> as boolean", [True], ["<int>"]),
    ("<int> negative", [-1], ["<int>"]),
    ("<int> too large", [2**53], ["<int>"]),
    ("<ts> as fraction", [1767225600.5], ["<ts>"]),
    ("<ts> in milliseconds", [1767225600000], ["<ts>"]),
    ("<uuid> without hyphens", ["11111111111141118111111111111111"], ["<uuid>"]),
    ("<hash> of 15 digits", ["0f1e2d3c4b5a697"], ["<hash>"]),
    ("<hash> in capitals", ["0F1E2D3C4B5A6978"], ["<hash>"]),
    ("<hash> with a line feed", ["0f1e2d3c4b5a6978\n"], ["<hash>"]),
    ("<str> as null", [None], ["<str>"]),
    ("<any> absent", [{}], [{"a": "<any>"}]),
    ("contains another value", [{"a": 1, "b": 2}], [{"<contains>": {"a": 2}}]),
    ("contains a missing member", [{"b": 2}], [{"<contains>": {"a": 1}}]),
    ("contains deeply another", [{"a": {"b": 1}}], [{"<contains>": {"a": {"b": 2}}}]),
    ("contains no prefix", [{"a": [2, 1]}], [{"<contains>": {"a": [1]}}]),
    ("contains more elements", [{"a": [1]}], [{"<contains>": {"a": [1, 2]}}]),
    ("loose only inside", [{"a": {"c": 1}, "b": 2}], [{"a": {"<contains>": {}}}]),
]


@pytest.mark.parametrize(
    ("actual", "expected"),
    [case[1:] for case in DIFFERENT],
    ids=[case[0] for case in DIFFERENT],
)
def test_matcher_sees_a_difference(actual: list[object], expected: list[object]) -> None:
    assert differences(actual, expected) != []


def test_matcher_takes_what_the_placeholders_stand_for() -> None:
    actual: list[object] = [
        {"id": 7, "time": 1767225600, "hash": "0f1e2d3c4b5a6978", "text": "", "more": [{}]},
        {"id": 7, "uuid": "11111111-1111-4111-8111-111111111111", "list": [{"a": 1, "b": 2}, 3]},
    ]
    expected: list[object] = [
        {"more": "<any>", "text": "<str>", "hash": "<hash>", "time": "<ts>", "id": "<int>"},
        {"<contains>": {"id": "<int>", "uuid": "<uuid>", "list": [{"a": 1}]}},
    ]
    assert differences(actual, expected) == []
