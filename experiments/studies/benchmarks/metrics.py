"""Time and memory of metrics of 10,000 images, beside NumPy's, SciPy's and PyTorch's usual ways.

    pip install -e '.[bench]'
    python experiments/studies/benchmarks/metrics.py --rounds 5

Each turn is a process of its own, so that its peak of memory is its own too. Distances are of 2,048
features, as Inception has them. The row of Inception's features needs torch-fidelity, whose network
reproduces TensorFlow's graph (pip install torch-fidelity); it is left out where there is none.
"""

import argparse
import functools
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

COUNT, FEATURES = 10_000, 2048
# Images through Inception, of which 10,000 would take an hour.
INCEPTION_COUNT = 200


def _features() -> tuple[np.ndarray, np.ndarray]:
    """Draw features of data and samples that are like Inception's: positive and correlated."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(FEATURES, FEATURES)) * np.geomspace(1, 1e-3, FEATURES)[:, None]
    sets = (
        np.abs(rng.normal(shift, 1, (COUNT, FEATURES)) @ mixing).astype(np.float32)
        for shift in (0, 0.02)
    )
    return next(sets), next(sets)


def _images(count: int, size: int, channels: int) -> np.ndarray:
    shape = (count, size, size, channels)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def frechet_genjax() -> Callable[[], Any]:
    """Prepare our Frechet distance, by singular values of factors."""
    from genjax.metrics.frechet import Moments, frechet_distance

    real, fake = _features()
    return lambda: frechet_distance(Moments.of(real), Moments.of(fake))


def frechet_usual() -> Callable[[], Any]:
    """Prepare the Frechet distance with SciPy's root of the product of covariances."""
    import scipy.linalg

    real, fake = _features()

    def run() -> float:
        gap = real.mean(axis=0) - fake.mean(axis=0)
        covariances = [np.cov(each.astype(np.float64), rowvar=False) for each in (real, fake)]
        root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
        return float(gap @ gap + np.trace(covariances[0] + covariances[1] - 2 * root))

    return run


def kernel_genjax() -> Callable[[], Any]:
    """Prepare our kernel distance, with 100 subsets of 1,000."""
    from genjax.metrics.kernel import kernel_distance

    return functools.partial(kernel_distance, *_features())


def kernel_usual() -> Callable[[], Any]:
    """Prepare the kernel distance with scikit-learn's kernel."""
    from sklearn.metrics.pairwise import polynomial_kernel

    real, fake = _features()

    def once(rng: np.random.Generator) -> float:
        x, y = (each[rng.choice(COUNT, 1000, replace=False)] for each in (real, fake))
        xx, yy, xy = (polynomial_kernel(a, b) for a, b in ((x, x), (y, y), (x, y)))
        pairs = sum((k.sum() - np.trace(k)) / (1000 * 999) for k in (xx, yy))
        return float(pairs - 2 * xy.mean())

    return lambda: np.mean([once(np.random.default_rng(i)) for i in range(100)])


def prdc_genjax() -> Callable[[], Any]:
    """Prepare precision, recall, density and coverage as genjax computes them, in blocks."""
    from genjax.metrics.neighbours import prdc

    return functools.partial(prdc, *_features())


def prdc_usual() -> Callable[[], Any]:
    """Prepare precision, recall, density and coverage with three whole distance matrices."""
    from sklearn.metrics import pairwise_distances

    real, fake = _features()

    def radii(x: np.ndarray) -> np.ndarray:
        return np.partition(pairwise_distances(x), 5, axis=1)[:, 5]

    def run() -> Any:
        real_radii, fake_radii = radii(real), radii(fake)
        distances = pairwise_distances(real, fake)
        balls = distances < real_radii[:, None]
        recall = (distances < fake_radii).any(axis=1).mean()
        return balls.any(axis=0).mean(), recall, balls.sum(axis=0).mean() / 5, balls.any(axis=1)

    return run


def classifier_genjax() -> Callable[[], Any]:
    """Prepare features of MNIST-sized images by the small classifier."""
    from flax.serialization import to_bytes

    from genjax.metrics.classifier import Extractor, initial_variables
    from genjax.types import ImageSpec

    spec = ImageSpec(28, 28, 1, 10)
    extractor = Extractor(spec, to_bytes(initial_variables(spec, 0)))
    return lambda: extractor(_images(COUNT, 28, 1))


def classifier_usual() -> Callable[[], Any]:
    """Prepare features by the small classifier in PyTorch, with `classifier_genjax`'s weights."""
    import torch
    from torch import nn

    from genjax.metrics.classifier import STRIDES, WIDTHS, initial_variables
    from genjax.types import ImageSpec

    params = initial_variables(ImageSpec(28, 28, 1, 10), 0)["params"]
    layers: list[nn.Module] = []
    channels = 1
    for i, (width, stride) in enumerate(zip(WIDTHS, STRIDES, strict=True)):
        conv = nn.Conv2d(channels, width, 3, stride, 1)
        kernel = np.array(params[f"conv_{i}"]["kernel"]).transpose(3, 2, 0, 1)
        conv.weight.data = torch.from_numpy(kernel.copy())
        layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    layers += [nn.AvgPool2d(2, ceil_mode=True), nn.Flatten(), nn.LazyLinear(128), nn.ReLU()]
    net = nn.Sequential(*layers).eval()

    @torch.no_grad()
    def run() -> list[np.ndarray]:
        images = torch.from_numpy(_images(COUNT, 28, 1)).permute(0, 3, 1, 2)
        return [net(part.float() / 127.5 - 1).numpy() for part in images.split(500)]

    return run


def _inception_weights() -> dict[str, np.ndarray]:
    from genjax.interop.inception import entries

    rng = np.random.default_rng(0)
    shapes = entries() | {"fc.bias": (1008,)}
    return {
        name: np.ones(shape, np.float32)
        if name.endswith(("running_var", "bn.weight"))
        else (rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:] or (1e4,)))).astype(np.float32)
        for name, shape in shapes.items()
    }


def inception_genjax() -> Callable[[], Any]:
    """Prepare features of CIFAR-sized images by Inception."""
    from genjax.interop.inception import load
    from genjax.metrics.inception import inception

    net = inception(load(_inception_weights()))
    return lambda: net(_images(INCEPTION_COUNT, 32, 3))


def inception_usual() -> Callable[[], Any]:
    """Prepare features by torch-fidelity's Inception, with the weights of `inception_genjax`."""
    import tempfile

    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        weights = {name: torch.from_numpy(array) for name, array in _inception_weights().items()}
        counts = {
            name.replace("running_var", "num_batches_tracked"): torch.tensor(0)
            for name in weights
            if name.endswith("running_var")
        }
        torch.save(weights | counts, path)
        net = FeatureExtractorInceptionV3(
            "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
        )

    @torch.no_grad()
    def run() -> list[Any]:
        images = torch.from_numpy(_images(INCEPTION_COUNT, 32, 3)).permute(0, 3, 1, 2)
        return [net(part) for part in images.split(50)]

    return run


TASKS = {
    "frechet": "Frechet distance",
    "kernel": "kernel distance, 100 subsets of 1,000",
    "prdc": "precision, recall, density, coverage",
    "classifier": "features of 10,000 images, small classifier",
    "inception": f"features of {INCEPTION_COUNT} images, Inception",
}
SIDES = ("genjax", "usual")
# These run again once they are compiled or have chosen their kernels.
WARM = ("classifier", "inception")


def measure(task: str, side: str) -> dict[str, float]:
    """Measure the seconds of one call, and its memory on top of its inputs, in MiB."""
    run = globals()[f"{task}_{side}"]()
    if task in WARM:
        run()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "mib": (after - before) / 1024}


def main() -> None:
    """Print a row for each task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--measure", nargs=2, metavar=("TASK", "SIDE"), help="one, in this process")
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    if importlib.util.find_spec("torch_fidelity") is None:
        args.only = [task for task in args.only if task != "inception"]
    print("| what | genjax, s | usual, s | ratio | genjax, MiB | usual, MiB |")
    print("|---|---|---|---|---|---|")
    for task in args.only:
        found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for _ in range(args.rounds):
            for side in SIDES:
                command = [sys.executable, __file__, "--measure", task, side]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found[side].append(json.loads(done.stdout.splitlines()[-1]))
        times = {side: [each["seconds"] for each in found[side]] for side in SIDES}
        memory = {side: max(each["mib"] for each in found[side]) for side in SIDES}
        ratios = sorted(u / g for g, u in zip(times["genjax"], times["usual"], strict=True))
        print(
            f"| {TASKS[task]} | {statistics.median(times['genjax']):.2f} | "
            f"{statistics.median(times['usual']):.2f} | {statistics.median(ratios):.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f}) | {memory['genjax']:.0f} | "
            f"{memory['usual']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
