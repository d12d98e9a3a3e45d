"""Figures of a trained model: samples, paths in latent space, styles; and of a data set."""
