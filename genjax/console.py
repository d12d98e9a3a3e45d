"""Standard error, to which messages and progress bars go, and which may be gone.

A terminal is closed, a pipe has no reader, a disk is full, an encoding lacks a character: none of
these may end a training.
"""

import contextlib
import os
import sys
from typing import Any, TextIO

# What a write may raise: the terminal or the disk, a closed file or a character that cannot be
# encoded, no standard error at all, and a signal's message amid another one.
_FAILURES = (OSError, ValueError, AttributeError, RuntimeError)


class Console:
    """Standard error as a file whose writes do not fail; what cannot be written is left out."""

    def write(self, text: str) -> int:
        try:
            return sys.stderr.write(text)
        except _FAILURES:
            return len(text)

    def flush(self) -> None:
        with contextlib.suppress(*_FAILURES):
            sys.stderr.flush()

    def isatty(self) -> bool:
        try:
            return sys.stderr.isatty()
        except _FAILURES:
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


console = Console()


def progress(**options: Any) -> Any:
    """Make a progress bar: one of tqdm on a terminal or in a notebook, else one that is silent."""
    from tqdm import auto

    if _is_widget(auto.tqdm):
        return auto.tqdm(**options)
    return auto.tqdm(**options, dynamic_ncols=True, file=console, disable=not console.isatty())


def _is_widget(bar: type) -> bool:
    return any(base.__name__ == "tqdm_notebook" for base in bar.__mro__)


def finish(stream: TextIO | None) -> None:
    """Write what a stream still holds, or drop it, so that the interpreter can end without it."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def printable(text: str) -> str:
    """Return text from a file on one line, without characters that would steer a terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
