"""The watch: says so when a game has gone wrong for long."""

from collections.abc import Callable, Mapping
from typing import NamedTuple


class Rule(NamedTuple):
    """A sign in the metrics of a log record, and what it means."""

    needs: tuple[str, ...]
    holds: Callable[[Mapping[str, float]], bool]
    warning: str


RULES = (
    Rule(
        ("accuracy_real", "accuracy_fake", "d_fake"),
        lambda m: m["accuracy_real"] > 0.98 and m["accuracy_fake"] > 0.98 and m["d_fake"] < 0.05,
        "the discriminator wins: it tells nearly every real and generated image apart, so the "
        "generator gets little to learn from. Lower discriminator.learning_rate or its size",
    ),
    Rule(
        ("diversity",),
        lambda m: m["diversity"] < 0.5,
        "mode collapse: samples are much more alike than the data. Lower the learning rates, or "
        "restart from an earlier checkpoint with another seed",
    ),
)
# Log records in a row before a sign counts: the opening of a game often shows it for a while.
PATIENCE = 20


class Watch:
    """Counts for how many log records in a row each rule holds."""

    def __init__(self) -> None:
        self._held = [0] * len(RULES)

    def __call__(self, metrics: Mapping[str, float]) -> list[str]:
        """Take a log record; give the warnings that become due with it, once an episode."""
        due = []
        for i, rule in enumerate(RULES):
            holds = all(name in metrics for name in rule.needs) and rule.holds(metrics)
            self._held[i] = self._held[i] + 1 if holds else 0
            if self._held[i] == PATIENCE:
                due.append(rule.warning)
        return due
