"""Objectives: pure functions on arrays that return a value per example or per logit.

The caller reduces.
"""

from genjax.objectives import adversarial, likelihood, penalties

__all__ = ["adversarial", "likelihood", "penalties"]
