"""Metrics of samples, and warnings about the metrics of training."""

from genjax.metrics import classes, energy, frechet, kernel, neighbours, sharpness

__all__ = ["classes", "energy", "frechet", "kernel", "neighbours", "sharpness"]
