"""Errors without the group that a nursery of ours puts them in."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def ungrouped() -> Iterator[None]:
    """Take the group of a nursery off the one error inside; a group of the block's own stays.

    A cancellation beside the error is left out, as it is where no nursery is: the scope that
    asked for it sees the error instead.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        _, errors = group.split(trio.Cancelled)
        if errors is not None and len(errors.exceptions) > 1:
            raise errors from None
        lone = _first(group) if errors is None else errors.exceptions[0]
    else:
        return
    raise lone


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
