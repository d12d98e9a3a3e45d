"""The parts of a train step: state, updates, optimizers, replicas and diagnostics."""
