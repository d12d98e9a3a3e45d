"""Inception-v3 of TensorFlow's 2015 graph, by which FID and the Inception Score are defined."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genjax.metrics.features import FeatureNet, over_devices

FEATURES = 2048
CLASSES = 1008
# Height and width of the images that it was trained on.
SIZE = 299
# Number of images in one call.
CHUNK = 50

Kernel = tuple[int, int]
# (name, features, kernel size) of a convolution.
Layer = tuple[str, int, Kernel]


def _conv(
    x: jax.Array, name: str, features: int, kernel: Kernel, strides: int = 1, padding: str = "SAME"
) -> jax.Array:
    """Apply a convolution with its batch norm folded in, and ReLU, as a child of the caller."""
    conv = nn.Conv(features, kernel, (strides, strides), padding, name=name)
    return nn.relu(conv(x))


def _chain(x: jax.Array, *layers: Layer) -> jax.Array:
    for layer in layers:
        x = _conv(x, *layer)
    return x


def _halve(x: jax.Array, name: str, features: int) -> jax.Array:
    return _conv(x, name, features, (3, 3), strides=2, padding="VALID")


def _max_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (2, 2))


def _mean_pool(x: jax.Array) -> jax.Array:
    """Average over 3x3 pixels; at the border, as in TensorFlow, over those inside the image."""
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def _join(*branches: jax.Array) -> jax.Array:
    return jnp.concatenate(branches, axis=-1)


class MixedA(nn.Module):
    """A block of a 1x1, a 5x5, a 3x3-3x3 and a pooled branch.

    [B, 35, 35, C] -> [B, 35, 35, 224 + pooled].
    """

    pooled: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return _join(
            _chain(x, ("branch1x1", 64, (1, 1))),
            _chain(x, ("branch5x5_1", 48, (1, 1)), ("branch5x5_2", 64, (5, 5))),
            _chain(
                x,
                ("branch3x3dbl_1", 64, (1, 1)),
                ("branch3x3dbl_2", 96, (3, 3)),
                ("branch3x3dbl_3", 96, (3, 3)),
            ),
            _chain(_mean_pool(x), ("branch_pool", self.pooled, (1, 1))),
        )


class MixedB(nn.Module):
    """The block that halves to 17 pixels: [B, 35, 35, 288] -> [B, 17, 17, 768]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        double = _chain(x, ("branch3x3dbl_1", 64, (1, 1)), ("branch3x3dbl_2", 96, (3, 3)))
        return _join(
            _halve(x, "branch3x3", 384),
            _halve(double, "branch3x3dbl_3", 96),
            _max_pool(x),
        )


class MixedC(nn.Module):
    """A block of 7x7 kernels as rows and columns, with `width` features inside.

    [B, 17, 17, 768] -> [B, 17, 17, 768].
    """

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = self.width
        return _join(
            _chain(x, ("branch1x1", 192, (1, 1))),
            _chain(
                x,
                ("branch7x7_1", width, (1, 1)),
                ("branch7x7_2", width, (1, 7)),
                ("branch7x7_3", 192, (7, 1)),
            ),
            _chain(
                x,
                ("branch7x7dbl_1", width, (1, 1)),
                ("branch7x7dbl_2", width, (7, 1)),
                ("branch7x7dbl_3", width, (1, 7)),
                ("branch7x7dbl_4", width, (7, 1)),
                ("branch7x7dbl_5", 192, (1, 7)),
            ),
            _chain(_mean_pool(x), ("branch_pool", 192, (1, 1))),
        )


class MixedD(nn.Module):
    """The block that halves to 8 pixels: [B, 17, 17, 768] -> [B, 8, 8, 1280]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        small = _chain(x, ("branch3x3_1", 192, (1, 1)))
        large = _chain(
            x,
            ("branch7x7x3_1", 192, (1, 1)),
            ("branch7x7x3_2", 192, (1, 7)),
            ("branch7x7x3_3", 192, (7, 1)),
        )
        return _join(
            _halve(small, "branch3x3_2", 320), _halve(large, "branch7x7x3_4", 192), _max_pool(x)
        )


class MixedE(nn.Module):
    """A block of 1x1 and 3x3 kernels in parallel: [B, 8, 8, C] -> [B, 8, 8, 2048]."""

    max_pool: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        single = _chain(x, ("branch3x3_1", 384, (1, 1)))
        double = _chain(x, ("branch3x3dbl_1", 448, (1, 1)), ("branch3x3dbl_2", 384, (3, 3)))
        # The last block pools by the maximum: a quirk of the graph, with which it was trained.
        pooled = nn.max_pool(x, (3, 3), padding="SAME") if self.max_pool else _mean_pool(x)
        return _join(
            _chain(x, ("branch1x1", 320, (1, 1))),
            _chain(single, ("branch3x3_2a", 384, (1, 3))),
            _chain(single, ("branch3x3_2b", 384, (3, 1))),
            _chain(double, ("branch3x3dbl_3a", 384, (1, 3))),
            _chain(double, ("branch3x3dbl_3b", 384, (3, 1))),
            _chain(pooled, ("branch_pool", 192, (1, 1))),
        )


class InceptionV3(nn.Module):
    """The network: images float32 [B, 299, 299, 3] in [-1, 1] -> features [B, 2048], logits.

    Szegedy et al. 2015, with each batch norm folded into its convolution. The features are those of
    pool3; the logits, [B, 1008], leave out the last layer's bias, as the code of the Inception
    Score does (Salimans et al. 2016).
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = _halve(x, "Conv2d_1a_3x3", 32)
        x = _conv(x, "Conv2d_2a_3x3", 32, (3, 3), padding="VALID")
        x = _max_pool(_conv(x, "Conv2d_2b_3x3", 64, (3, 3)))
        x = _conv(x, "Conv2d_3b_1x1", 80, (1, 1))
        x = _max_pool(_conv(x, "Conv2d_4a_3x3", 192, (3, 3), padding="VALID"))
        for letter, pooled in (("b", 32), ("c", 64), ("d", 64)):
            x = MixedA(pooled, name=f"Mixed_5{letter}")(x)
        x = MixedB(name="Mixed_6a")(x)
        for letter, width in (("b", 128), ("c", 160), ("d", 160), ("e", 192)):
            x = MixedC(width, name=f"Mixed_6{letter}")(x)
        x = MixedD(name="Mixed_7a")(x)
        x = MixedE(max_pool=False, name="Mixed_7b")(x)
        x = MixedE(max_pool=True, name="Mixed_7c")(x)
        features = jnp.mean(x, axis=(1, 2))
        return features, nn.Dense(CLASSES, use_bias=False, name="fc")(features)


def params_shapes() -> Any:
    """Return the shapes of the parameters of `InceptionV3`."""
    images = jnp.zeros((1, SIZE, SIZE, 3))
    return jax.eval_shape(InceptionV3().init, jax.random.key(0), images)["params"]


def _interpolation(size: int) -> np.ndarray:
    """Return the matrix [299, size] of TensorFlow 1's bilinear resize along one axis.

    It aligns the first pixels of both axes, not their centres as later libraries do.
    """
    position = np.arange(SIZE) * np.float32(size / SIZE)
    left = np.floor(position).astype(int)
    matrix = np.zeros((SIZE, size))
    np.add.at(matrix, (np.arange(SIZE), left), 1 - (position - left))
    np.add.at(matrix, (np.arange(SIZE), np.minimum(left + 1, size - 1)), position - left)
    return matrix.astype(np.float32)


def to_inputs(images: jax.Array) -> jax.Array:
    """Convert images to the network's input, as the graph does.

    Args:
        images: uint8 [B, H, W, C], C 1 or 3; gray is repeated.

    Returns:
        float32 [B, 299, 299, 3], `(x - 128) / 128`, resized as TensorFlow 1 does.
    """
    rows, columns = (_interpolation(size) for size in images.shape[1:3])
    x = images.astype(jnp.float32)
    x = jnp.einsum("yh,bhwc,xw->byxc", rows, x, columns)
    return jnp.broadcast_to((x - 128) / 128, (*x.shape[:3], 3))


def inception(params: Any) -> FeatureNet:
    """Return Inception-v3 as a feature net of images uint8 [N, H, W, C], C 1 or 3, of any size.

    Args:
        params: The parameters of `InceptionV3`.
    """
    return over_devices(
        lambda params, images: InceptionV3().apply({"params": params}, to_inputs(images)),
        params,
        CHUNK,
    )
