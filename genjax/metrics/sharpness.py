"""How sharp images are, which likelihoods and feature distances see little of."""

import numpy as np


def sharpness(images: np.ndarray) -> np.ndarray:
    """Variance of the Laplacian of each image (Pech-Pacheco et al. 2000); blur lowers it.

    Args:
        images: [N, H, W, C], at least 3x3 pixels; colours are averaged.

    Returns:
        float64 [N], in the square of the images' unit. Compare the mean with that of the data:
        noise raises it too.
    """
    x = np.asarray(images, np.float64).mean(axis=3)
    beside = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
    return (beside - 4 * x[:, 1:-1, 1:-1]).var(axis=(1, 2))
