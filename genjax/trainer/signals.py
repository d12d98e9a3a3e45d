"""The signals that ask a training to stop: Ctrl-C, SIGTERM, and the SIGHUP of a closed terminal."""

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Iterator
from signal import SIG_IGN, SIGHUP, SIGINT, SIGTERM, Signals, getsignal
from signal import signal as set_handler
from types import FrameType

from genjax.run.trained import Result

log = logging.getLogger("genjax")


class Stopped(KeyboardInterrupt):
    """A signal has stopped a training: what it had reached is saved, and what follows does not run.

    Attributes:
        signal: The signal.
        result: The end of the training; None before the first step, when there is nothing to save.
        outcome: The same in words, without the signal.
    """

    def __init__(self, signal: Signals, result: Result | None = None):
        self.outcome = "stopped before the first step"
        if result is not None:
            step, run = result.step, result.run
            self.outcome = f"stopped and saved at step {step}; to go on: genjax resume {run}"
        super().__init__(f"{signal.name}: {self.outcome}")
        self.signal, self.result = signal, result


@dataclasses.dataclass
class Stop:
    """Whether to stop.

    Attributes:
        signal: The signal that has come, or None.
        is_training: Whether there is a state to save; before, a signal raises `Stopped`.
    """

    signal: Signals | None = None
    is_training: bool = False

    def begin(self) -> None:
        """Say that training begins.

        Raises:
            Stopped: A signal has come. It may have been raised where exceptions are swallowed, such
                as a function that C++ called.
        """
        self.is_training = True
        if self.signal is not None:
            raise Stopped(self.signal)


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """Catch the signals inside the context; after the first one, the old handlers are back.

    A closed terminal sends SIGHUP more than once, so it never stops at once; where it is ignored,
    as under `nohup`, it stays so. A thread other than the main one cannot set handlers, so there
    nothing is caught.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {each: getsignal(each) for each in (SIGINT, SIGTERM, SIGHUP)}
    if before[SIGHUP] is SIG_IGN:
        del before[SIGHUP]

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        stop.signal = Signals(number)
        for each, handler in before.items():
            set_handler(each, SIG_IGN if each is SIGHUP else handler)
        if not stop.is_training:
            raise Stopped(stop.signal)
        log.warning("%s: saving, then stopping; once more to stop at once", stop.signal.name)

    for each in before:
        set_handler(each, ask)
    try:
        yield stop
    finally:
        for each, handler in before.items():
            set_handler(each, handler)
