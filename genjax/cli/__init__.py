"""The command `genjax`; each of its commands calls a function of the package."""

import os
import signal
from typing import Any


def main() -> None:
    """Import what the commands need, which takes seconds, and run the command line.

    Meanwhile Ctrl-C ends the process at once: a KeyboardInterrupt is a traceback in an import, and
    extension modules swallow it.
    """
    is_heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_heard:
        signal.signal(signal.SIGINT, _stop)
    from genjax.cli.run import run_and_exit

    run_and_exit(is_heard=is_heard)


def _stop(*_: Any) -> None:
    try:
        os.write(2, b"genjax: error: stopped\n")
    finally:
        os._exit(128 + signal.SIGINT)
