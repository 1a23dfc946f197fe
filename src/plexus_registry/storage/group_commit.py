"""Many changes in one transaction: callers wait for the disk together.

Theory of operation. A change is a function of a `Transaction`. Changes wait in a queue. The caller
whose change is first takes the store's lock and makes all changes that are queued by then, in
order, in one transaction. It saves the transaction, publishes it to the catalog and wakes the
others of its group. If saving fails, the transaction is dropped, and everyone in the group gets the
error.

After a failed save, disk and memory may differ: a change that was refused may be in the log of the
database. Until a save succeeds, every group is therefore written to the disk, even one that changes
nothing in memory, together with what memory holds of all names in the failed saves. So nothing is
acknowledged or refused because of memory alone while the two may differ.

A group that is on the disk is never refused. If publishing it raises (a bug), the caller whose
change was first gets that exception; the others get what their changes returned.

Source: manual/architecture.md, "The way of a call"; manual/operations.md, "Promises".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from plexus_registry.measures import GROUP_SIZES, Histogram
from plexus_registry.rules.change_log import Transaction
from plexus_registry.rules.errors import StorageFailed

if TYPE_CHECKING:
    from plexus_registry.rules.catalog import Catalog
    from plexus_registry.rules.change_log import Entry
    from plexus_registry.rules.events import Cause
    from plexus_registry.rules.operations import Records
    from plexus_registry.storage.sqlite import Store

log = logging.getLogger(__name__)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Change = Callable[[Transaction], T]
Publish = Callable[[Transaction, "Mapping[str, Records]", "Mapping[str, Records]"], None]
Ended = Callable[[float, float], None]


@dataclass(frozen=True, slots=True)
class StorageFailure:
    """Why no change can be saved.

    Attributes:
        since: When saving first failed, in Unix seconds.
        reason: Why it failed last.
    """

    since: int
    reason: str


@dataclass(slots=True, eq=False)
class _QueuedChange(Generic[T_co]):
    """One change in the queue, and later its outcome, or the error why it was not made."""

    change: Change[T_co]
    by: Cause | None
    is_long: bool
    # Whether its group is being committed, or was: it is finished in any case.
    is_taken: bool = False
    outcome: T_co = field(init=False)
    revision: int = 0
    error: Exception | None = None

    def make(self, transaction: Transaction) -> None:
        """Make the change in a transaction, after the ones before it."""
        try:
            self.outcome = self.change(transaction)
            self.revision = transaction.end_change(self.by)
        except Exception as error:  # noqa: BLE001 - its caller gets it, not its neighbours
            self.error = error
            transaction.abandon_change()


class GroupCommit:
    """The one way in which the catalog and the disk change together.

    Attributes:
        failure: Since when and why saving fails; None while the last save succeeded.
        seconds: How long each commit that wrote took.
        group_sizes: How many changes it had.
    """

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        publish: Publish,
        ended: Ended,
        now: Callable[[], int],
        now_ms: Callable[[], int],
    ) -> None:
        """Start with nothing queued.

        Args:
            store: Where changes are saved.
            catalog: The committed state.
            publish: Called once a group is on the disk, with its transaction, the names that
                changed and those that were only saved again.
            ended: Called after each commit, well or not, with the moments at which it began
                and ended.
            now: The clock that says since when saving fails.
            now_ms: The clock for the history, in Unix milliseconds.
        """
        self.failure: StorageFailure | None = None
        self.seconds = Histogram()
        self.group_sizes = Histogram(GROUP_SIZES)
        self._store = store
        self._catalog = catalog
        self._publish = publish
        self._ended = ended
        self._now = now
        self._now_ms = now_ms
        self._queue: list[_QueuedChange[object]] = []
        self._committing: Mapping[str, Records] = {}
        # While a worker thread makes changes, it is not known which names they are about.
        self._is_making_changes = False
        # Set when the group in hand is finished, and when the one that waits is.
        self._finished = self._next_finished = trio.Event()
        self._failed = trio.Event()
        # While saving fails: whether a change that was refused may be on the disk all the same,
        # and the names that the failed saves were about.
        self._is_in_doubt = False
        self._names_to_restore: set[str] = set()

    async def settled(self, name: str) -> None:
        """Wait until no commit in hand changes a name."""
        while not self.is_settled(name):
            await self._finished.wait()

    def is_settled(self, name: str) -> bool:
        """Whether no commit in hand changes a name."""
        return not self._is_making_changes and name not in self._committing

    async def wait_for_failure(self) -> None:
        """Wait until saving fails."""
        await self._failed.wait()

    async def repair(self) -> None:
        """Write what memory holds back to the disk, if the last save failed.

        Raises:
            StorageFailed: Saving still fails.
        """
        await self.commit(lambda _transaction: None, None)

    async def commit(
        self, change: Change[T], by: Cause | None, *, is_long: bool = False
    ) -> tuple[T, int]:
        """Make a change durable.

        If the caller is cancelled before the change is made, it is not made; after that, it is
        finished.

        Args:
            change: Reads and writes a transaction, and returns what the caller wants to know.
            by: What makes the change, for the history; None if it cannot change a backend.
            is_long: Whether it may be about so many names that it should run in a worker thread.

        Returns:
            What the change returned, and the revision after it.

        Raises:
            StorageFailed: The change could not be saved, and was not made.
            Exception: Whatever the change raised; it was not made.
        """
        queued = _QueuedChange(change, by, is_long)
        self._queue.append(queued)
        try:
            while not queued.is_taken:
                if self._queue[0] is queued:
                    async with self._store.lock:
                        with trio.CancelScope(shield=True):
                            await self._commit_queue()
                else:
                    await self._next_finished.wait()
        finally:
            if not queued.is_taken:
                self._queue.remove(queued)
                # Another one may be the first now.
                self._next_finished.set()
                self._next_finished = trio.Event()
        if queued.error is not None:
            raise queued.error
        return queued.outcome, queued.revision

    async def _commit_queue(self) -> None:
        began = trio.current_time()
        group, self._queue = self._queue, []
        self._finished, self._next_finished = self._next_finished, trio.Event()
        for queued in group:
            queued.is_taken = True
        was_failing = self.failure is not None
        try:
            transaction = Transaction(self._catalog, at=self._now_ms())
            for queued in group:
                if queued.is_long:
                    self._is_making_changes = True
                    await self._store.run_sync(partial(queued.make, transaction))
                else:
                    queued.make(transaction)
            changes, saved_again = transaction.changes, transaction.saved_again()
            # What is only saved again may change in memory meanwhile: a ping does not wait for it.
            self._is_making_changes, self._committing = False, changes
            if changes or saved_again or transaction.entries or was_failing:
                await self._save({**changes, **saved_again}, transaction.entries)
                self.seconds.note(trio.current_time() - began)
                self.group_sizes.note(len(group))
        except BaseException as error:
            is_bug = isinstance(error, Exception) and not isinstance(error, StorageFailed)
            if is_bug and not was_failing:
                log.exception("saving failed in an unexpected way")
            # Even a refusal may rest on a change that is lost now: everyone asks again.
            for queued in group:
                # While in doubt, the change may be in the log since an earlier try.
                queued.error = StorageFailed(_reason(error), is_unknown=self._is_in_doubt)
            if not isinstance(error, Exception):
                raise
        else:
            self._publish(transaction, changes, saved_again)
        finally:
            self._is_making_changes, self._committing = False, {}
            self._ended(began, trio.current_time())
            self._finished.set()

    async def _save(self, changes: Mapping[str, Records], entries: Sequence[Entry]) -> None:
        """Save changes, and with them whatever a save that failed may have left behind."""
        after = None
        if self.failure is not None:
            after = self._catalog.revision
            restored = {name: self._catalog.records(name) for name in self._names_to_restore}
            changes = {**restored, **changes}
        try:
            await self._store.save(changes, entries, after=after)
        except BaseException as error:
            self._begin_failure(error, changes)
            raise
        if self.failure is not None:
            self._end_failure()

    def _begin_failure(self, error: BaseException, changes: Mapping[str, Records]) -> None:
        reason = _reason(error)
        if self.failure is None:
            log.error(
                "storage fails, no change can be saved: %s; reads go on, and a repair is tried"
                " every second",
                reason,
            )
        since = self._now() if self.failure is None else self.failure.since
        self.failure = StorageFailure(since, reason)
        self._failed.set()
        self._names_to_restore |= changes.keys()
        if not isinstance(error, StorageFailed) or error.is_unknown:
            self._is_in_doubt = True

    def _end_failure(self) -> None:
        log.info("storage works again: the database holds what the registry shows")
        self.failure = None
        self._failed = trio.Event()
        self._names_to_restore.clear()
        self._is_in_doubt = False


def _reason(error: BaseException) -> str:
    if isinstance(error, StorageFailed):
        return error.reason
    if isinstance(error, Exception):
        return "internal error, see the log"
    return f"interrupted by {type(error).__name__}"
