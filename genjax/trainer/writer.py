"""The output of a run while it trains: records, TensorBoard events, curves, progress."""

import contextlib
import io
import logging
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from genjax.console import progress
from genjax.run.checkpoint import write_atomically
from genjax.run.folder import RunFolder
from genjax.run.records import TIMINGS, read_records, to_strict_json

log = logging.getLogger("genjax")

# Curves are drawn at a save only after this time, and at the end, because it takes a second.
SECONDS_BETWEEN_CURVES = 60.0


class Writer:
    """A writer of the records of a run.

    Args:
        folder: The run folder.
        start: The step of the checkpoint that training continues from. Later records are removed,
            because their steps are run again.
        steps: The last step of the run.
        batch_size: Images a step.
    """

    def __init__(self, folder: RunFolder, start: int, steps: int, batch_size: int):
        self.folder, self._steps, self._batch_size = folder, steps, batch_size
        self.records = read_records(folder, start)
        text = "".join(to_strict_json(record) + "\n" for record in self.records)
        metrics = folder.to_append(folder.metrics)
        write_atomically(metrics, text.encode())
        self._file = metrics.open("a")
        events = folder.to_append(folder.tensorboard)
        self._opening = ThreadPoolExecutor(1).submit(_open_events, str(events), start + 1)
        self._start = self._last_step = start
        self._last_time = time.monotonic()
        self._before = self.records[-1]["seconds"] if self.records else 0.0
        self._started = self._last_time
        self._drawn = self._last_time
        self._bar = progress(total=steps, initial=start, unit=" steps")

    def record(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Write a record, and return it: the metrics of the steps since the last one to `step`."""
        now = time.monotonic()
        rate = (step - self._last_step) / (now - self._last_time)
        timings = (self._before + now - self._started, rate, rate * self._batch_size)
        record: dict[str, Any] = {"step": step, **metrics}
        record |= {name: round(value, 3) for name, value in zip(TIMINGS, timings, strict=True)}
        self.records.append(record)
        self._file.write(to_strict_json(record) + "\n")
        self._file.flush()
        for name, value in record.items():
            if name != "step":
                self._opening.result().add_scalar(name, value, step)
        self._bar.set_postfix_str(f"{rate * self._batch_size:,.0f} images/s", refresh=False)
        self._bar.update(step - self._last_step)
        self._last_step, self._last_time = step, now
        return record

    def report(self) -> None:
        """Draw the curves if they are old, publish, and log the progress if there is no live bar.

        Called after each save.
        """
        now = time.monotonic()
        if now - self._drawn > SECONDS_BETWEEN_CURVES:
            self._draw()
            self._drawn = now
        self._opening.result().flush()
        self.folder.publish()
        if self._bar.disable:
            record = self.records[-1]
            rate = (record["step"] - self._start) / (now - self._started)
            endings = ("loss", "_distance", "_nll", "wasserstein_estimate")
            shown = [f"{k} {record[k]:.3g}" for k in record if k.endswith(endings)]
            log.info(
                "step %d of %d  %s  %.0f steps/s  %s images/s  %.0f s left",
                record["step"],
                self._steps,
                "  ".join(shown),
                rate,
                f"{rate * self._batch_size:,.0f}",
                (self._steps - record["step"]) / rate,
            )

    def _draw(self) -> None:
        write_atomically(self.folder.curves, curves(self.records))

    def close(self) -> None:
        """Draw the curves a last time, and close the files and the bar."""
        self._bar.close()
        closing = [self._file.close, self._close_events, self.folder.publish]
        for last in [self._draw, *closing] if self.records else closing:
            with contextlib.suppress(OSError):  # a full disk was reported already
                last()

    def _close_events(self) -> None:
        if self._opening.exception() is None:  # or it was raised where the events were written
            self._opening.result().close()


def _open_events(folder: str, purge_step: int) -> Any:
    """Open TensorBoard's events; in a thread, as its import takes a second, or two with PyTorch."""
    from tensorboardX import SummaryWriter

    return SummaryWriter(folder, purge_step=purge_step)


class NullWriter:
    """A writer that writes nothing, for all processes but the first."""

    records: Sequence[dict[str, float]] = ()

    def close(self) -> None:
        """Do nothing."""

    def record(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the record."""
        return {"step": step, **metrics}

    def report(self) -> None:
        """Report nothing."""


def _panel(name: str) -> str:
    """Return the panel in which a metric is drawn; all metrics of a panel have the same unit."""
    if name in ("d_real", "d_fake"):
        return "D(x) and D(G(z))"
    for ending, panel in (("loss", "loss"), ("grad_norm", "gradient norm")):
        if name.endswith(ending):
            return panel
    return "discriminator accuracy" if name.startswith("accuracy_") else name.replace("_", " ")


def curves(records: list[dict[str, float]]) -> bytes:
    """Plot the metrics over steps as PNG, with a panel for each unit."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for record in records for name in record):
        if name != "step" and name not in TIMINGS:
            panels.setdefault(_panel(name), []).append(name)
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.5 * columns, 3 * rows), layout="constrained")
    for place, (panel, names) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, columns, place, title=panel, xlabel="step")
        for name in names:
            points = [(record["step"], record[name]) for record in records if name in record]
            axes.plot(
                *zip(*points, strict=True), label=name, marker="." if len(points) < 30 else ""
            )
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend()
    FigureCanvasAgg(figure)

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return buffer.getvalue()
