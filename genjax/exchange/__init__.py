"""Trained models as files: their way out of a run, and in from other implementations."""
