"""The command `genjax`; each of its commands calls a function of the package."""

import os
import signal
import sys
from typing import Any


def main() -> None:
    """Import what the command needs, which takes seconds unless it is help, and run it.

    Meanwhile Ctrl-C ends the process at once: a KeyboardInterrupt is a traceback in an import, and
    extension modules swallow it.
    """
    is_heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_heard:
        signal.signal(signal.SIGINT, _stop)
    from genjax.cli.overview import answer

    if sys.stdout and (text := answer(sys.argv[1:])) is not None:
        try:
            print(text, flush=True)
            sys.exit(0 if sys.argv[1:] else 2)
        except (OSError, ValueError):
            pass  # where this cannot be printed, what follows says why
    from genjax.cli.run import run_and_exit

    run_and_exit(is_heard=is_heard)


def _stop(*_: Any) -> None:
    try:
        os.write(2, b"genjax: error: stopped\n")
    finally:
        os._exit(128 + signal.SIGINT)
