"""The resolutions of an image as convolutions halve it."""

from genjax.types import ImageSpec, UsageError


def base_resolution(spec: ImageSpec) -> tuple[int, tuple[int, int]]:
    """Return the number of halvings down to 4 to 7 pixels, and the (height, width) after them.

    For example, 28x28 pixels give 2 and (7, 7).

    Raises:
        UsageError: Halving both sides does not bring the shorter one to 4 to 7 pixels.
    """
    height, width, halvings = spec.height, spec.width, 0
    while height % 2 == width % 2 == 0 and min(height, width) >= 8:
        height, width, halvings = height // 2, width // 2, halvings + 1
    if not halvings or not 4 <= min(height, width) < 8:
        raise UsageError(
            f"images of {spec.height}x{spec.width}: these networks halve the size until the "
            "shorter side is 4 to 7 pixels, so sizes such as 16, 28, 32, 64 or 128 fit (--size)"
        )
    return halvings, (height, width)
