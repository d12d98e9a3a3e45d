"""Several processes that train one model: how they join, who writes, and how they communicate.

Every process runs the same program in the same order. Only the first writes logs, grids and curves;
all save and restore checkpoints together.
"""

import contextlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from genjax.types import UsageError

T = TypeVar("T")

# A process without a sign of life for this long counts as dead, and the others end.
HEARTBEAT_SECONDS = 60
ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


class ProcessLost(RuntimeError):
    """Another process of the run has ended, and this one cannot go on alone."""


def join() -> None:
    """Join the other processes of the run, if the environment names any; otherwise do nothing.

    The environment names them by the variables `JAX_COORDINATOR_ADDRESS` (HOST:PORT, where process
    0 listens), `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`; by a SLURM step of several tasks; or by
    being a Cloud TPU VM, whose slice may have further workers. Call this before any computation.

    Raises:
        UsageError: Some of the variables are missing or impossible, or other processes did not join
            in time.
    """
    # The training loop handles signals itself, Ctrl-C and SIGTERM alike, on every platform.
    jax.config.update("jax_enable_preemption_service", False)
    arguments = _from_variables()
    if not arguments and not _in_slurm_step() and not _on_tpu_vm():
        return
    try:
        jax.distributed.initialize(**arguments, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except (RuntimeError, ValueError) as error:
        first_line = str(error).splitlines()[0]
        raise UsageError(
            f"the processes of the run did not find each other: {first_line}"
        ) from error


def _from_variables() -> dict[str, Any]:
    given = {name: os.environ[name] for name in (ADDRESS, COUNT, INDEX) if name in os.environ}
    if not given:
        return {}
    if len(given) < 3:
        missing = [name for name in (ADDRESS, COUNT, INDEX) if name not in given]
        raise UsageError(
            f"{', '.join(given)} is set without {' and '.join(missing)}: wanted all three"
        )
    host, _, port = given[ADDRESS].rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"{ADDRESS} = {given[ADDRESS]!r}: should be HOST:PORT")
    numbers = {}
    for name, least in ((COUNT, 1), (INDEX, 0)):
        if not given[name].isdigit() or int(given[name]) < least:
            raise UsageError(f"{name} = {given[name]!r}: should be a whole number from {least}")
        numbers[name] = int(given[name])
    if numbers[INDEX] >= numbers[COUNT]:
        raise UsageError(f"{INDEX} = {numbers[INDEX]}: should be below {COUNT} = {numbers[COUNT]}")
    return {
        "coordinator_address": given[ADDRESS],
        "num_processes": numbers[COUNT],
        "process_id": numbers[INDEX],
    }


def _in_slurm_step() -> bool:
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def _on_tpu_vm() -> bool:
    """Return whether jax will compute on TPU chips of this machine."""
    wanted = os.environ.get("JAX_PLATFORMS", "tpu").split(",")
    chips = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")]
    return "tpu" in wanted and bool(chips) and importlib.util.find_spec("libtpu") is not None


def is_joined() -> bool:
    """Return whether `join` connected this process to others, or to a slice of one worker."""
    return jax.distributed.is_initialized()


def is_first() -> bool:
    """Return whether this is the process that writes; true if there is only one process."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait until every process has called this; `name` identifies the place in the code."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def first_before_others(name: str) -> Iterator[None]:
    """Let the first process run this context alone, and the others after it has left it."""
    if not is_first():
        barrier(name)
    yield
    if is_first():
        barrier(name)


def all_gather(values: np.ndarray) -> np.ndarray:
    """Gather every process's `values`, of one shape, on all processes: [processes, ...]."""
    if jax.process_count() == 1:
        return np.asarray(values)[None]
    return np.asarray(multihost_utils.process_allgather(values))


def run_on_first(work: Callable[[], T]) -> T:
    """Call `work` on the first process, and return its result, a JSON value, on all of them.

    Raises:
        UsageError: `work` raised one; then all processes do.
    """
    if jax.process_count() == 1:
        return work()
    told: dict[str, Any] = {}
    if is_first():
        try:
            told["value"] = work()
        except UsageError as error:
            told["error"] = str(error)
    text = np.frombuffer(json.dumps(told).encode(), np.uint8)
    (length, *_) = all_gather(np.array(len(text)))
    told = json.loads(all_gather(np.resize(text, length))[0].tobytes())
    if "error" in told:
        raise UsageError(told["error"])
    return told["value"]
