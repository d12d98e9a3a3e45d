"""Metrics of samples, and warnings about the metrics of training."""
