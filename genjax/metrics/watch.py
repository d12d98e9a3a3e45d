"""Warnings about training that has gone wrong for long.

The thresholds come from runs of the MLP GAN on the digits, on MNIST and on mixtures of Gaussians.
Healthy runs keep a `diversity` of 0.9 to 1.05 and a `d_fake` above 0.3 after their first steps.
With ten times the discriminator's learning rate `d_fake` falls below 0.1, and `diversity` falls
below 0.75 or rises to 1.3, as the samples move to the edges of the data.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

# The metric of the samples' quality; lower is better.
ENERGY_DISTANCE = "energy_distance"

# Consecutive log records that must show a sign before there is a warning: the first steps often
# show one for a while.
PATIENCE = 30
# Consecutive records for metrics that are rarely evaluated.
PATIENCE_DISTANCE = 3
# Consecutive records for a value that is compared with its own recent mean, which soon follows it,
# and the number of records in that mean.
PATIENCE_SIGMA, MEMORY_SIGMA = 3, 30
# A metric that rises by this starts the count anew: WGAN-GP takes hundreds of steps of its
# generator until its first samples are diverse, but they become so.
RISE = 0.05


class Rule(NamedTuple):
    """A sign of trouble in the metrics of a log record, and its warning.

    Attributes:
        name: A few words for it.
        needs: Names of the metrics that it reads.
        holds: Function from the metrics to whether they show the sign.
        patience: Number of consecutive records that must show it.
        warning: The text of the warning.
        improves: A metric whose rise starts the count anew; None if there is none.
    """

    name: str
    needs: tuple[str, ...]
    holds: Callable[[Mapping[str, float]], bool]
    patience: int
    warning: str
    improves: str | None = None


RULES = (
    Rule(
        "D wins",
        ("accuracy_real", "accuracy_fake", "d_fake"),
        lambda m: min(m["accuracy_real"], m["accuracy_fake"]) > 0.9 and m["d_fake"] < 0.15,
        PATIENCE,
        "the discriminator wins: it tells nearly every generated image from a real one, and the "
        "generator learns little from that. Try a lower discriminator.learning_rate",
    ),
    Rule(
        "collapse",
        ("diversity",),
        lambda m: m["diversity"] < 0.8,
        PATIENCE,
        "mode collapse: the samples are much more alike than the data. Try lower learning rates",
        improves="diversity",
    ),
    Rule(
        "edges",
        ("diversity",),
        lambda m: m["diversity"] > 1.15,
        PATIENCE,
        "the samples are spread wider than the data: they keep to its edges, or are noise. The "
        "discriminator may be too strong: try a lower discriminator.learning_rate",
    ),
    Rule(
        "by heart",
        ("real_sign",),
        lambda m: m["real_sign"] > 0.9,
        PATIENCE,
        "the discriminator is sure of nearly every real image (real_sign), as it is of images "
        "that it knows by heart. Try --augment ada, a smaller ada_target, or a larger r1_gamma",
    ),
    Rule(
        "posterior collapse",
        ("active_units", "active_fraction"),
        lambda m: m["active_units"] < 1 or m["active_fraction"] < 0.1,
        PATIENCE,
        "posterior collapse: few or none of the latents carry anything of the image. Try a KL "
        "warm-up (kl_warmup_steps), free_bits, a lower beta, or a weaker decoder",
        improves="active_fraction",
    ),
    Rule(
        "not invertible",
        ("round_trip_error",),
        # A quarter of the width of one of 256 gray levels.
        lambda m: m["round_trip_error"] > 1e-3,
        1,
        "the flow can hardly be inverted: an image comes back with an error of over a quarter of a "
        "gray level (round_trip_error), so samples are not what the likelihood speaks of. Try a "
        "lower optimizer.learning_rate, or look at condition_number",
    ),
    Rule(
        "overflow",
        ("overflow_fraction",),
        lambda m: m["overflow_fraction"] > 0.01,
        PATIENCE_DISTANCE,
        "some samples overflow where the flow has seen no data (overflow_fraction): sample with a "
        "--temperature below 1, or train for longer",
    ),
    Rule(
        "explosion",
        ("g_max_singular_value", "g_max_singular_value_before"),
        lambda m: m["g_max_singular_value"] > 2 * m["g_max_singular_value_before"],
        PATIENCE_SIGMA,
        "the generator's largest singular value explodes (g_max_singular_value): it is over "
        "twice its recent mean, the sign of a training that collapses. The best checkpoint is "
        "kept; resume from there with lower learning rates",
    ),
    Rule(
        "worse",
        (ENERGY_DISTANCE, "best"),
        lambda m: m[ENERGY_DISTANCE] > 3 * m["best"] > 0,
        PATIENCE_DISTANCE,
        f"the samples get worse: {ENERGY_DISTANCE} is over three times its best",
    ),
)


class Watch:
    """A counter of the consecutive log records for which each rule holds."""

    def __init__(self) -> None:
        self._held = [0] * len(RULES)
        self._began = [0.0] * len(RULES)
        self._best = float("inf")
        self._sigma: float | None = None

    def __call__(self, record: Mapping[str, float]) -> list[str]:
        """Take in a log record and return the warnings that it triggers, each once an episode."""
        self._best = min(self._best, record.get(ENERGY_DISTANCE, self._best))
        metrics = {**record, "best": self._best}
        if "g_max_singular_value" in record:
            if self._sigma is None:
                self._sigma = record["g_max_singular_value"]
            metrics["g_max_singular_value_before"] = self._sigma
            self._sigma += (record["g_max_singular_value"] - self._sigma) / MEMORY_SIGMA
        due = []
        for i, rule in enumerate(RULES):
            if any(name not in metrics for name in rule.needs):
                continue
            value = metrics[rule.improves] if rule.improves else 0.0
            if not rule.holds(metrics):
                self._held[i] = 0
                continue
            if self._held[i] == 0 or value > self._began[i] + RISE:
                self._held[i], self._began[i] = 0, value
            self._held[i] += 1
            if self._held[i] == rule.patience:
                due.append(rule.warning)
        return due
