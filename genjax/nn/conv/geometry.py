"""The sizes that a convolution and its two transposes share."""

from typing import NamedTuple


class Geometry(NamedTuple):
    """Sizes of a convolution. The input's is here, because it does not follow from the output's."""

    input_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: int
    padding: int

    @property
    def fills_strides(self) -> bool:
        """Tell whether the kernel is of whole strides, so that its phases are all of one size."""
        return all(extent % self.stride == 0 for extent in self.kernel_size)

    @property
    def output_size(self) -> tuple[int, ...]:
        return tuple(
            (size + 2 * self.padding - kernel) // self.stride + 1
            for size, kernel in zip(self.input_size, self.kernel_size, strict=True)
        )
