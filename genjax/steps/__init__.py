"""The parts of a train step: state, updates, optimizers and diagnostics."""
