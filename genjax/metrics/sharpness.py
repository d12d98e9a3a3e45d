"""The sharpness of images, to which likelihoods and feature distances hardly respond."""

import numpy as np

from genjax.metrics.shapes import check_shape


def sharpness(images: np.ndarray) -> np.ndarray:
    """Compute the variance of each image's Laplacian, which blur lowers (Pech-Pacheco et al. 2000).

    Args:
        images: [N, H, W, C], at least 3x3 pixels; colours are averaged.

    Returns:
        float64 [N], in the square of the images' unit. Compare its mean with that of the data,
        because noise raises it too.

    Raises:
        UsageError: The images have another shape.
    """
    check_shape("images", images, ("N", "H", "W", "C"))
    x = np.asarray(images).mean(axis=3, dtype=np.float64)
    beside = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
    return (beside - 4 * x[:, 1:-1, 1:-1]).var(axis=(1, 2))
