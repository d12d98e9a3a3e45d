"""What images are written to: grids, arrays, videos, and folders or archives of single images."""

import contextlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from genjax.figures.grid import grid, to_gif, to_jpeg, to_picture, to_png
from genjax.run.checkpoint import write_atomically
from genjax.types import Batch, UsageError

# The encoders of grids by the ending of the file.
GRIDS = {".png": to_png, ".jpg": to_jpeg, ".jpeg": to_jpeg}


def takes_single_images(output: Path) -> bool:
    """Return whether `output` is a folder or a .zip: a name without an ending is a new folder."""
    return output.is_dir() or output.suffix.lower() in ("", ".zip")


def check_output(output: Path, video: bool = False) -> None:
    """Raise a `UsageError` if `save_images` cannot write there; `video` allows a .gif."""
    wanted = [*GRIDS, ".npy"] + ([".gif"] if video else [])
    if not takes_single_images(output) and output.suffix.lower() not in wanted:
        videos = " or .gif (a video)" if video else ""
        raise UsageError(
            f"output {output}: should end in .png or .jpg (a grid), .npy (the array), .zip (single "
            f"images){videos}, or be a folder (single images)"
        )
    if not output.absolute().parent.is_dir():
        raise UsageError(f"output {output}: no folder {output.parent}")
    if output.is_dir() and any(output.iterdir()):
        raise UsageError(f"output {output}: the folder is not empty; wanted a new or an empty one")


def save_images(images: np.ndarray, output: Path, columns: int | None = None) -> None:
    """Save images as a grid, a video, an array, or one by one, as the ending of `output` says.

    Args:
        images: uint8 [n, H, W, C]; or [rows, columns, H, W, C], of which a .gif shows one column
            after the other, and a .npy keeps the axes.
        output: A .png or .jpg for a grid, a .gif, a .npy, a .zip or a folder.
        columns: Columns of the grid of [n, H, W, C]. None: the square root of n, rounded up.

    Raises:
        UsageError: The file has another ending, or its folder does not exist.
    """
    check_output(output, video=images.ndim == 5)
    if output.suffix.lower() == ".gif":
        write_atomically(output, to_gif([grid(column) for column in images.swapaxes(0, 1)]))
        return
    if output.suffix.lower() == ".npy":
        save_array(images, output)
        return
    if images.ndim == 5:
        columns, images = images.shape[1], images.reshape(-1, *images.shape[2:])
    if takes_single_images(output):
        save_single_images([Batch(images, np.zeros(len(images), np.int32))], output, False)
    else:
        write_atomically(output, GRIDS[output.suffix.lower()](grid(images, columns)))


def save_array(array: np.ndarray, output: Path) -> None:
    """Save an array in a .npy."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_atomically(output, buffer.getvalue())


def save_arrays(output: Path, arrays: dict[str, np.ndarray]) -> None:
    """Save arrays in a .npz, under their names."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_atomically(output, buffer.getvalue())


def check_file(output: Path, suffix: str) -> None:
    """Raise a `UsageError` if `output` does not end so, or cannot be written there."""
    if output.suffix.lower() != suffix:
        raise UsageError(f"output {output}: should end in {suffix}")
    if output.is_dir():
        raise UsageError(f"output {output}: is a folder; wanted a file")
    if not output.absolute().parent.is_dir():
        raise UsageError(f"output {output}: no folder {output.parent}")


def save_single_images(batches: Iterable[Batch], output: Path, has_labels: bool) -> None:
    """Save each image as a .png, numbered in order, in a folder or a .zip, whole or not at all.

    Beside them is a `dataset.json` as other tools and `genjax train --data` read it: `{"labels":
    [[NAME, CLASS], ...]}`, or null in place of the list.

    Args:
        batches: Images uint8 [B, H, W, C] and labels [B], which are written as they come.
        output: The folder, new or empty, or the .zip.
        has_labels: Whether the labels are the images' classes.
    """
    output = output.absolute()
    part = output.with_name(f".{output.name}.part")
    labels: list[tuple[str, int]] = []
    try:
        with _writer(part, output.suffix.lower() == ".zip") as write:
            for batch in batches:
                for image, label in zip(batch.images, batch.labels, strict=True):
                    labels.append((f"{len(labels):08d}.png", int(label)))
                    write(labels[-1][0], to_png(to_picture(image)))
            write("dataset.json", json.dumps({"labels": labels if has_labels else None}).encode())
        part.replace(output)
    except OSError as error:  # a full disk names no file, and nobody knows `part`
        error.filename, error.filename2 = str(output), None
        raise
    finally:
        part.unlink(missing_ok=True) if part.is_file() else shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def _writer(part: Path, is_archive: bool) -> Iterator[Callable[[str, bytes], Any]]:
    """Open a new archive or folder; give a function that writes a file of a name into it."""
    if is_archive:
        with zipfile.ZipFile(part, "w") as archive:
            yield lambda name, data: archive.writestr(zipfile.ZipInfo(name), data)
    else:
        part.mkdir()
        yield lambda name, data: (part / name).write_bytes(data)
