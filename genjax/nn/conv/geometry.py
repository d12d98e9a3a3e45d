"""The sizes that a convolution and its two transposes share."""

from typing import NamedTuple


class Geometry(NamedTuple):
    """Of a convolution; an input's size does not follow from the output's, so it stands here."""

    input_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: int
    padding: int

    @property
    def fills_strides(self) -> bool:
        """Whether the kernel is of whole strides, so that its phases are all of one size."""
        return all(extent % self.stride == 0 for extent in self.kernel_size)

    @property
    def output_size(self) -> tuple[int, ...]:
        return tuple(
            (size + 2 * self.padding - kernel) // self.stride + 1
            for size, kernel in zip(self.input_size, self.kernel_size, strict=True)
        )
