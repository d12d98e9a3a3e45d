"""Metrics of samples, and the watch over a game's diagnostics."""
