"""The road of a run: data, steps, records, checkpoints."""
