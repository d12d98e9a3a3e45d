"""A thread that writes files while the devices compute."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from types import TracebackType
from typing import Self

import jax

log = logging.getLogger("genjax")


class Background:
    """A thread that writes what belongs to one save; a context that no writing outlives.

    With several processes it writes at once: they save together, and what they tell each other for
    that must not come between what they tell each other in the steps, in an order of its own.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "background")
        self._writing: Future[None] | None = None

    def start(self, writes: Sequence[Callable[[], None]]) -> None:
        """Do the writes in this order, once those of before have ended as `wait` says."""
        self.wait()
        if jax.process_count() > 1:
            _call(writes)
        else:
            self._writing = self._pool.submit(copy_context().run, _call, writes)

    def wait(self) -> None:
        """Wait for the writes, and raise what one of them raised, after which none was done."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait; beside an error of the context, that of a write is a warning."""
        try:
            self.wait()
        except Exception as failure:
            if error is None:
                raise
            log.warning("%s", failure)
        finally:
            self._pool.shutdown()


def _call(writes: Sequence[Callable[[], None]]) -> None:
    for write in writes:
        write()
