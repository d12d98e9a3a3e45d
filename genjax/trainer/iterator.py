"""A training as an iterator over its records, in place of callbacks."""

import contextvars
import dataclasses
import logging
import os
import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Self

import jax
import jax.numpy as jnp
from etils import epath
from PIL import Image

from genjax.data.source import Source
from genjax.run.folder import RunConfig, RunFolder
from genjax.run.sharding import Steps
from genjax.run.trained import Result, Trained
from genjax.types import State, UsageError

log = logging.getLogger("genjax")


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """What `training` tells at each record of a run.

    Attributes:
        run: The run folder.
        step: The number of steps taken.
        metrics: Their means since the last record, as in `metrics.jsonl`; at a save also those of
            samples, such as the one that picks the best checkpoint.
        warnings: What the log warns of: collapse, a discriminator that wins.
        grid: At a save, samples of always the same noise; else None.
    """

    run: epath.Path
    step: int
    metrics: Mapping[str, float]
    warnings: Sequence[str]
    grid: Image.Image | None
    _trained: Callable[[], Trained] = dataclasses.field(repr=False)

    @property
    def trained(self) -> Trained:
        """The model at this step, for `sample`, `export` and so on.

        Raises:
            UsageError: The loop has gone on, and with it the state.
        """
        return self._trained()


# A training that yields its records and ends with its result.
Running = Generator[Record, None, Result]


class Training(Iterator[Record]):
    """A training as an iterator over its records; see `training`.

    Attributes:
        result: The end of the training; None before.
    """

    def __init__(self, running: Running):
        self.result: Result | None = None
        self._running, self._context = running, contextvars.copy_context()
        if threading.current_thread() is threading.main_thread():
            # It may end within the loop. When `atexit` is called, no thread can be started any
            # more, and none can save; this is called before.
            at_exit = threading._register_atexit  # type: ignore[attr-defined]
            at_exit(_close, weakref.ref(self), os.getpid())

    def __next__(self) -> Record:
        try:
            return self._context.run(next, self._running)
        except StopIteration as end:
            self.result = self.result or end.value
            raise

    def close(self) -> None:
        """Save and end the training, as leaving the loop does."""
        self._context.run(self._running.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def _close(ref: weakref.ref[Training], process: int) -> None:
    training = ref()
    if training is None or os.getpid() != process:  # as in one that was forked
        return
    try:
        training.close()
    except Exception as error:  # it would keep other threads from their ends
        log.warning("a training was not saved at the end of the program: %s", error)


def drain(running: Running) -> Result:
    """Train to the end, without its records."""
    while True:
        try:
            next(running)
        except StopIteration as end:
            result: Result = end.value
            return result


@dataclasses.dataclass
class ModelAt:
    """The model at a record of a training, until its loop goes on."""

    config: RunConfig
    folder: RunFolder
    step: int
    quality: Mapping[str, float]
    steps: Steps
    state: State
    data: Source | None
    is_gone: bool = False

    def __call__(self) -> Trained:
        if self.is_gone:
            raise UsageError(
                f"record.trained of step {self.step}: take it before the loop goes on to the next "
                "record, which overwrites the state"
            )
        state = jax.tree.map(jnp.copy, self.steps.get(self.state))
        names, path = self.config.class_names, self.folder.path
        return Trained(
            *(self.config.recipe, state, self.step, names, path, self.quality, self.folder),
            data=self.data,
        )
