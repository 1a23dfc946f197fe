"""Many changes in one transaction: whoever waits for the disk waits together.

Theory of operation. A change is a function of a `Draft`, queued in the order in which it came.
The first in the queue takes the store's lock, judges all that is queued by then, each change
against what the ones before it leave, saves the outcome in one transaction, publishes it to the
catalog and wakes the others of its group. If saving fails, the draft is thrown away and everyone
in the group hears it.

Source: design, "Data flow".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import trio

from plexus_registry.core.draft import Draft
from plexus_registry.core.errors import StorageFailed

if TYPE_CHECKING:
    from plexus_registry.core.catalog import Catalog
    from plexus_registry.core.claims import Records
    from plexus_registry.core.feed import Entry
    from plexus_registry.store import Store

log = logging.getLogger(__name__)

T = TypeVar("T")
Change = Callable[[Draft], T]
Publish = Callable[[Draft, "Mapping[str, Records]", "Mapping[str, Records]"], None]
Ended = Callable[[float], None]


class _Turn:
    """One queued change.

    Attributes:
        change: The change.
        taken: Whether it was judged: then it is committed or has an `error`.
        revision: The revision after it.
        call: Set once it was taken, and when it is its turn to lead a group.
    """

    __slots__ = ("call", "change", "error", "revision", "taken")

    def __init__(self, change: Change[None]) -> None:
        self.change = change
        self.taken = False
        self.revision = 0
        self.error: Exception | None = None
        self.call = trio.Event()


class GroupCommit:
    """The one way in which the catalog and the disk change together."""

    def __init__(self, store: Store, catalog: Catalog, publish: Publish, ended: Ended) -> None:
        """Start with nothing queued.

        Args:
            store: Where changes are saved.
            catalog: What is committed so far.
            publish: Takes over what a group committed; called once it is on the disk, with
                the names that changed and with those that were only saved again.
            ended: Called after each commit, well or not, with the moment at which it began.
        """
        self._store = store
        self._catalog = catalog
        self._publish = publish
        self._ended = ended
        self._queue: list[_Turn] = []
        self._committing: Mapping[str, Records] = {}
        self._committed = trio.Event()
        # A commit that is said to have failed may be on the disk all the same.
        self._is_in_doubt = False
        self._doubtful: set[str] = set()

    async def settled(self, name: str) -> None:
        """Wait until no commit in hand changes a name; most often that is at once."""
        while not self.is_settled(name):
            await self._committed.wait()

    def is_settled(self, name: str) -> bool:
        """Whether no commit in hand changes a name."""
        return name not in self._committing

    async def commit(self, change: Change[T]) -> tuple[T, int]:
        """Make a change durable.

        A caller who is cancelled before the change was judged has asked for nothing; after
        that the change is finished.

        Returns:
            What the change returned, and the revision after it.

        Raises:
            StorageFailed: The change could not be saved, and was not made.
            Exception: Whatever the change raised; it was not made.
        """
        answers: list[T] = []
        turn = _Turn(lambda draft: answers.append(change(draft)))
        self._queue.append(turn)
        try:
            while not turn.taken:
                if self._queue[0] is turn:
                    await self._lead()
                else:
                    await turn.call.wait()
        finally:
            if not turn.taken:
                self._leave(turn)
        if turn.error is not None:
            raise turn.error
        return answers[0], turn.revision

    async def _lead(self) -> None:
        """Commit all that is queued. Only the first in the queue does; the others wait for it."""
        async with self._store.lock:
            with trio.CancelScope(shield=True):
                await self._commit_queue()

    def _leave(self, turn: _Turn) -> None:
        """Take back a change that nobody looked at yet; the next one in the queue may lead."""
        self._queue.remove(turn)
        if self._queue:
            self._queue[0].call.set()

    async def _save(self, changes: Mapping[str, Records], entries: Sequence[Entry]) -> None:
        """Save changes, and with them whatever a save that failed may have left behind."""
        restored = {name: self._catalog.records(name) for name in self._doubtful}
        after = self._catalog.revision if self._is_in_doubt else None
        try:
            await self._store.save({**restored, **changes}, entries, after=after)
        except BaseException:
            self._is_in_doubt = True
            self._doubtful |= changes.keys()
            raise
        self._is_in_doubt = False
        self._doubtful.clear()

    async def _commit_queue(self) -> None:
        began = trio.current_time()
        turns, self._queue = self._queue, []
        draft = Draft(self._catalog)
        for turn in turns:
            turn.taken = True
            try:
                turn.change(draft)
                turn.revision = draft.end_change()
            except Exception as error:  # noqa: BLE001 - its caller gets it, not its neighbours
                turn.error = error
                draft.abandon_change()
        changes, saved_again = draft.changes(), draft.saved_again()
        # What is only saved again may change in memory meanwhile: a ping does not wait for it.
        self._committing = changes
        try:
            if changes or saved_again or draft.entries:
                await self._save({**changes, **saved_again}, draft.entries)
        except Exception as error:
            reason = "internal error, see the log"
            if isinstance(error, StorageFailed):
                reason = error.reason
            else:
                log.exception("saving failed in an unexpected way")
            # Even a refusal may rest on a change that is lost now: everyone asks again.
            for turn in turns:
                turn.error = StorageFailed(reason)
        else:
            self._publish(draft, changes, saved_again)
        finally:
            self._committing = {}
            self._ended(began)
            self._committed.set()
            self._committed = trio.Event()
            for turn in turns:
                turn.call.set()
