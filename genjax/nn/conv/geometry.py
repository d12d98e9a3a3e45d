"""The sizes and the precision that a convolution and its two transposes share."""

from typing import NamedTuple


class Geometry(NamedTuple):
    """Sizes of a convolution, and the precision of its products.

    Attributes:
        input_size: Height and width of the input, which do not follow from those of the output.
        kernel_size: Height and width of the kernel.
        stride: Stride of both axes.
        padding: Number of zeros added to each side of both axes.
        precision: See `nn.precision.current`.
    """

    input_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: int
    padding: int
    precision: str | None = None

    @property
    def fills_strides(self) -> bool:
        """Whether the stride divides the kernel's sizes, so that its phases have one size."""
        return all(extent % self.stride == 0 for extent in self.kernel_size)

    @property
    def output_size(self) -> tuple[int, ...]:
        """Height and width of the output."""
        return tuple(
            (size + 2 * self.padding - kernel) // self.stride + 1
            for size, kernel in zip(self.input_size, self.kernel_size, strict=True)
        )
