"""Ways to break what a fake hub answers: each gives an edit of the frames of one answer.

A path such as `1.params.result.type` starts with the number of the frame.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.peers.fake_hub import Edit, Frames


def put(path: str, value: object) -> Edit:
    """Set what is at a path."""

    def edit(frames: Frames) -> Frames:
        holder, last = _holder(frames, path)
        if isinstance(holder, list):
            holder[int(last)] = value
        else:
            holder[last] = value
        return frames

    return edit


def drop(path: str) -> Edit:
    """Remove the member at a path."""

    def edit(frames: Frames) -> Frames:
        holder, last = _holder(frames, path)
        assert isinstance(holder, dict)
        del holder[last]
        return frames

    return edit


def where(path: str, condition: Callable[[dict[str, object]], bool], edit: Edit) -> Edit:
    """Make an edit only where the object at a path meets a condition."""

    def edit_some(frames: Frames) -> Frames:
        holder, _ = _holder(frames, f"{path}.")
        assert isinstance(holder, dict)
        return edit(frames) if condition(holder) else frames

    return edit_some


def _holder(frames: Frames, path: str) -> tuple[list[object] | dict[str, object], str]:
    """Find what holds the last name of a path."""
    *parents, last = path.split(".")
    holder: object = frames
    for name in parents:
        holder = holder[int(name)] if isinstance(holder, list) else _member(holder, name)
    assert isinstance(holder, (list, dict))
    return holder, last


def _member(holder: object, name: str) -> object:
    assert isinstance(holder, dict)
    return holder[name]


def frames_in_order(*numbers: int) -> Edit:
    """Send these frames of the answer, in this order."""
    return lambda frames: [frames[number] for number in numbers]


def subscribed_as(value: object) -> Edit:
    """Use another subscription id in all frames of the answer."""

    def edit(frames: Frames) -> Frames:
        put("0.result", value)(frames)
        for number in range(1, len(frames)):
            put(f"{number}.params.subscription", value)(frames)
        return frames

    return edit


def first(frame: object) -> Edit:
    """Send a frame before the others."""
    return lambda frames: [frame, *frames]


def instead(frame: object) -> Edit:
    """Send one frame and nothing else."""
    return lambda _: [frame]


def done_after(frames: Frames) -> Frames:
    """End a stream by `done` as well."""
    done = copy.deepcopy(frames[-1])
    for name in ("message", "code", "recoverable"):
        drop(f"0.params.result.{name}")([done])
    put("0.params.result.type", "done")([done])
    return [*frames, done]
