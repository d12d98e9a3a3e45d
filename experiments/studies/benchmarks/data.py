"""Images a second from a folder, a zip and a prepared file, beside PyTorch's DataLoader.

    pip install -e '.[bench]'
    python -m experiments.studies.benchmarks.data --folder DIR
    python -m experiments.studies.benchmarks.data --folder DIR --links 1000000

JPEGs are made in DIR, cut out and scaled to 256x256 pixels by the same filter, and delivered in
shuffled batches of 64: by `genjax.data.batches` with a thread for each core, and by a DataLoader
with two workers. What is compared alternates. The second form makes a folder of so many links to
the JPEGs, and measures in a new process what it takes to open it and to know its digest.
"""

import argparse
import contextlib
import functools
import os
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from genjax.bench.results import Column, table
from genjax.bench.timing import alternating_times
from genjax.data.batches import Streamed
from genjax.data.prepare import prepare
from genjax.data.source import DataOptions
from genjax.data.sources import open_source

SIZE, BATCH, WORKERS = 256, 64, 2
# (width, height) of the JPEGs, and their number.
PHOTOS = {"512x384": (512, 384, 320), "1024x1024": (1024, 1024, 128)}
LINKS_A_FOLDER = 10_000
# Prints the seconds and the peak of memory before and after.
OPEN = """
import resource, sys, time
from genjax.data.digest import digest_of, pack
from genjax.data.sources import DataOptions, open_source
mib = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
cpu, before, start = time.process_time(), mib(), time.perf_counter()
source = open_source(sys.argv[1], DataOptions())
opened, opened_cpu = time.perf_counter() - start, time.process_time() - cpu
contents = source.contents(False)
digest_of(contents), pack(contents)
print(f"{len(source):,} files: opened in {opened:.1f} s (CPU {opened_cpu:.1f}), with digest in "
      f"{time.perf_counter() - start:.1f} s (CPU {time.process_time() - cpu:.1f}), "
      f"{mib() - before:,.0f} MiB at most")
"""


def photo(width: int, height: int, seed: int) -> Image.Image:
    """Return noise of all scales, whose spectrum falls as that of photographs does."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for scale, weight in ((128, 0.5), (32, 0.25), (8, 0.15), (2, 0.07), (1, 0.03)):
        shape = (max(2, height // scale), max(2, width // scale), 3)
        noise = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
        total += weight * np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray(total.astype(np.uint8))


def make_photos(folder: Path, width: int, height: int, count: int) -> None:
    """Write JPEGs, the same ones in a zip, and the file that is prepared from them."""
    options = DataOptions(size=(SIZE,), channels=3)
    if not folder.is_dir():
        folder.mkdir(parents=True)
        for i in range(count):
            photo(width, height, i).save(folder / f"{i:04}.jpg", quality=90)
    if not folder.with_suffix(".zip").exists():
        with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
            for path in sorted(folder.iterdir()):
                archive.write(path, path.name)
    prepare(f"folder:{folder}", folder.with_suffix(".array_record"), options)


class Photos(torch.utils.data.Dataset[torch.Tensor]):
    """The JPEGs of a folder as PyTorch wants them."""

    def __init__(self, folder: Path):
        self.paths = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.paths[index]) as image:
            fitted = ImageOps.fit(image.convert("RGB"), (SIZE, SIZE), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(fitted))


@contextlib.contextmanager
def stream(data: str) -> Iterator[Callable[[], int]]:
    """Yield a function that takes the next images of genjax, and says how many."""
    source = open_source(data, DataOptions(size=(SIZE,), channels=3))
    batches = Streamed(source, BATCH, seed=0, skip_broken=False)
    steps = iter(range(2**31))
    try:
        yield lambda: batches.feed(next(steps), 1).images.shape[1]
    finally:  # or it would read ahead beside the others
        batches._stream.close()  # type: ignore[attr-defined]


@contextlib.contextmanager
def load(folder: Path) -> Iterator[Callable[[], int]]:
    """Yield a function that takes the next images of a DataLoader, and says how many."""
    loader = torch.utils.data.DataLoader(
        Photos(folder),
        BATCH,
        shuffle=True,
        num_workers=WORKERS,
        persistent_workers=True,
        multiprocessing_context="spawn",
    )

    def endless() -> Iterator[torch.Tensor]:
        while True:
            yield from loader

    batches = endless()
    yield lambda: len(next(batches))


def rate(
    open_images: Callable[[], contextlib.AbstractContextManager[Callable[[], int]]], seconds: float
) -> float:
    """Return images a second, after a start of half the time."""
    with open_images() as take:
        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds / 2:
            take()
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            count += take()
        return count / (time.perf_counter() - start)


def with_spread(values: list[float]) -> str:
    """Format the median of values with the least and the most."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def compare(folder: Path, repeats: int, seconds: float) -> None:
    """Print a table of images a second; the ratios are those of neighbouring samples."""
    rows: list[dict[str, Any]] = []
    for name, (width, height, count) in PHOTOS.items():
        photos = folder / name
        make_photos(photos, width, height, count)
        ways = {
            "DataLoader": functools.partial(load, photos),
            "folder": functools.partial(stream, f"folder:{photos}"),
            "zip": functools.partial(stream, f"{photos}.zip"),
            "prepared": functools.partial(stream, f"{photos}.array_record"),
        }
        calls = {kind: functools.partial(rate, way, seconds) for kind, way in ways.items()}
        rates = alternating_times(calls, repeats)
        for kind, found in rates.items():
            ratios = [a / b for a, b in zip(found, rates["DataLoader"], strict=True)]
            rows.append({"JPEGs": name, "from": kind, "rates": found, "ratios": ratios})
    columns: list[Column] = [
        ("JPEGs", lambda row: row["JPEGs"]),
        ("from", lambda row: row["from"]),
        ("images/s", lambda row: f"{statistics.median(row['rates']):,.0f}"),
        ("of DataLoader", lambda row: with_spread(row["ratios"])),
    ]
    print(table(rows, columns, markdown=True))


def open_links(folder: Path, count: int) -> None:
    """Make a folder of links to JPEGs, and print what it takes to open it."""
    name = "512x384"
    make_photos(folder / name, *PHOTOS[name])
    photos, links = sorted((folder / name).iterdir()), folder / f"links{count}"
    for i in range(count):
        below = links / f"{i // LINKS_A_FOLDER:05}"
        if i % LINKS_A_FOLDER == 0:
            below.mkdir(parents=True, exist_ok=True)
        if not (below / f"{i:07}.jpg").exists():
            os.link(photos[i % len(photos)], below / f"{i:07}.jpg")
    subprocess.run([sys.executable, "-c", OPEN, f"folder:{links}"], check=True)


def main() -> None:
    """Measure, and print a table or a line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--links", type=int, help="measure the opening of so many files")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    given = parser.parse_args()
    if given.links:
        open_links(given.folder, given.links)
    else:
        compare(given.folder, given.repeats, given.seconds)


if __name__ == "__main__":
    main()
