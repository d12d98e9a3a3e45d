"""A thread that writes files while the devices compute."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import jax


class Background:
    """A thread that does one piece of work after the other, in order.

    With several processes the work is done at once: what they write together they must begin
    together, between the same steps.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "background")
        self._started: list[Future[None]] = []

    def start(self, work: Callable[[], None]) -> None:
        """Do the work in the thread, after what was started before."""
        if jax.process_count() > 1:
            work()
        else:
            self._started.append(self._pool.submit(work))

    def wait(self) -> None:
        """Wait for all work, and raise the first error that it raised, if any."""
        started, self._started = self._started, []
        for each in started:
            each.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the work that has begun, and leave out the rest."""
        self._pool.shutdown(cancel_futures=True)
