"""The log of a run: its own messages, whatever other threads train, and no more on the console."""

import contextlib
import contextvars
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger("genjax")

# The log file of the run that this code is of. A thread has its own; one that works for a run is
# started in a copy of the run's context.
_file: contextvars.ContextVar[logging.Handler | None] = contextvars.ContextVar("run", default=None)
_lock = threading.Lock()


class _LogFile(logging.FileHandler):
    """A log file that a full disk cuts short in silence: the next save says that it is full."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Do nothing, where the base class prints a traceback."""


class _Share(logging.Filter):
    """A filter that gives each message to its run's file, and lets pass what passed before.

    Attributes:
        runs: Number of the runs that are open.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0
        self._level = self._own_level = logging.NOTSET

    def open(self) -> None:
        with _lock:
            self.runs += 1
            if self.runs == 1:
                self._own_level, self._level = log.level, log.getEffectiveLevel()
                log.setLevel(min(self._level, logging.INFO))
                log.addFilter(self)

    def close(self) -> None:
        with _lock:
            self.runs -= 1
            if not self.runs:
                log.removeFilter(self)
                log.setLevel(self._own_level)

    def filter(self, record: logging.LogRecord) -> bool:
        file = _file.get()
        if file is not None:
            file.handle(record)
        return record.levelno >= self._level


_share = _Share()


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Write the messages of a run to its log file too, inside the context."""
    file = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before = _file.set(file)
    _share.open()
    try:
        yield
    finally:
        _share.close()
        _file.reset(before)
        with contextlib.suppress(OSError):
            file.close()
