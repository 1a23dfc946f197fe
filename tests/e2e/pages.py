"""The README and the manual as data: their headings, their fenced blocks, and what is in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
MANUAL = ROOT / "src" / "plexus_registry" / "manual"
PAGES = (README, *sorted(MANUAL.glob("*.md")))

# What differs from run to run; everything else in an example must be as printed.
VOLATILE = {
    "host": ("id", "registered_at", "created_at", "updated_at", "last_seen"),
    "plexus_hash": ("plexus_hash", "timestamp"),
    "state": ("since", "last_probe", "latency_ms"),
    "step": ("ms",),
    "type": ("at",),
}
"""By a member that tells what kind of object it is in."""


def page(topic: str) -> str:
    """The text of one page of the manual."""
    return (MANUAL / f"{topic}.md").read_text()


_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def sections(text: str) -> dict[str, str]:
    """The text below each heading of a page, by the heading; a comment in a block is none."""
    held = [block[0] for block in _BLOCK.finditer(text)]
    numbers = iter(range(len(held)))
    parts = re.split(
        r"^#+ (.+)$", _BLOCK.sub(lambda _: f"\0{next(numbers)}\0", text), flags=re.MULTILINE
    )
    texts = [re.sub(r"\0(\d+)\0", lambda number: held[int(number[1])], each) for each in parts]
    return dict(zip(texts[1::2], texts[2::2], strict=True))


def anchors(text: str) -> set[str]:
    """What a link to a heading of a page says after the `#`."""
    return {re.sub(r"[^a-z0-9 _-]", "", each.lower()).replace(" ", "-") for each in sections(text)}


def blocks(language: str, text: str) -> list[str]:
    """The fenced blocks in one language, in order."""
    return [block[2] for block in _BLOCK.finditer(text) if block[1] == language]


def languages(text: str) -> set[str]:
    """The languages of the fenced blocks."""
    return {block[1] for block in _BLOCK.finditer(text)}


def cells(text: str) -> list[list[str]]:
    """The rows of the tables in a text."""
    lines = [line.strip("|") for line in text.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines]
    return [row for row in rows if row[0] != "---"]


@dataclass(frozen=True)
class Exchange:
    """One request as it is typed, and the frames that answer it."""

    request: str
    answers: tuple[str, ...]


def exchanges(block: str) -> list[Exchange]:
    """Part a block into requests and their answers."""
    found: list[Exchange] = []
    for line in block.splitlines():
        if not line.startswith("{"):
            continue
        if {"id", "method"} <= msgspec.json.decode(line).keys():
            found.append(Exchange(line, ()))
        else:
            found[-1] = Exchange(found[-1].request, (*found[-1].answers, line))
    return found


@dataclass(frozen=True)
class Command:
    """One command as it is typed at a shell, and what it prints."""

    line: str
    output: str


def commands(block: str) -> list[Command]:
    """Part a console block into commands and their output."""
    parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)[1:]
    return [Command(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]


def comparable(frame: str) -> object:
    """Decode a frame, with what differs from run to run replaced by its type."""
    return _stable(msgspec.json.decode(frame), is_backend=False)


class Numbers:
    """Translates between the subscription numbers that are printed and those of one connection."""

    def __init__(self) -> None:
        self._distance = 0

    def learn(self, printed: str, answer: str) -> None:
        """Take note of an acknowledgement; all numbers of a connection are as far apart."""
        numbers = [msgspec.json.decode(frame).get("result") for frame in (printed, answer)]
        if all(type(number) is int for number in numbers):
            self._distance = numbers[1] - numbers[0]

    def to_send(self, request: str) -> str:
        """Put the connection's number in a request that is printed."""
        return re.sub(r"[0-9]{16}", lambda match: str(int(match[0]) + self._distance), request)

    def as_printed(self, answer: str) -> str:
        """Put the printed number in a frame that came."""
        return re.sub(
            r'("subscription"|"result"):([0-9]+)',
            lambda match: f"{match[1]}:{int(match[2]) - self._distance}",
            answer,
        )


def _stable(value: object, *, is_backend: bool) -> object:
    if isinstance(value, list):
        return [_stable(each, is_backend=is_backend) for each in value]
    if not isinstance(value, dict):
        return value
    hidden = next((members for mark, members in VOLATILE.items() if mark in value), ())
    return {
        key: type(each).__name__ if key in hidden else _stable(each, is_backend=is_backend)
        for key, each in value.items()
    }
