"""Runs: recipes, training, checkpoints, samples."""
