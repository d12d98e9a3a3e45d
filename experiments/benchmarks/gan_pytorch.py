"""`genjax train gan_mnist`, the whole command, beside the same GAN in eager PyTorch.

    pip install -e '.[bench]'
    python experiments/benchmarks/gan_pytorch.py --data-dir ~/tensorflow_datasets

Same networks, losses, optimizer, batch and precision, MNIST resident in both. Each run is a process
of its own and they alternate, so that a change in the machine's speed meets both. A rate is steps
over wall time from the first log record to the last: start-up, reading the data and compilation
are left out; metrics, records, progress, grids, evaluation and checkpoints are in.

PyTorch's loop is the plain one, without any metric. First it is checked that both compute the
same: from the same parameters, noise and images, the losses of one round must agree.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

BATCH, LATENT, HIDDEN, PIXELS = 128, 64, 256, 784
WARM_UP = 100


def pytorch_game(device: str) -> tuple[Any, Any, Any]:
    """G, D and `play(real, z) -> (d_loss, g_loss)`, one round with a step of each Adam."""
    import torch
    from torch import nn

    generator = nn.Sequential(
        nn.Linear(LATENT, HIDDEN), nn.LeakyReLU(0.01), nn.Linear(HIDDEN, PIXELS), nn.Tanh()
    ).to(device)
    discriminator = nn.Sequential(nn.Linear(PIXELS, 128), nn.LeakyReLU(0.01), nn.Linear(128, 1)).to(
        device
    )
    g_adam = torch.optim.Adam(generator.parameters(), 2e-4, (0.5, 0.999))
    d_adam = torch.optim.Adam(discriminator.parameters(), 2e-4, (0.5, 0.999))
    loss = nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(BATCH, 1, device=device), torch.zeros(BATCH, 1, device=device)

    def play(real: Any, z: Any) -> tuple[Any, Any]:
        fake = generator(z)
        d_loss = loss(discriminator(real), ones) + loss(discriminator(fake.detach()), zeros)
        d_adam.zero_grad()
        d_loss.backward()
        d_adam.step()
        g_loss = loss(discriminator(fake), ones)
        g_adam.zero_grad()
        g_loss.backward()
        g_adam.step()
        return d_loss, g_loss

    return generator, discriminator, play


def check_same_game() -> None:
    """Both give the same losses from the same parameters, noise and images."""
    import jax
    import torch

    from genjax.interop import gan as interop
    from genjax.models import gan
    from genjax.types import ImageSpec

    config, spec = gan.GanConfig(), ImageSpec(28, 28, 1)
    generator, discriminator, play = pytorch_game("cpu")
    named = {"G": generator, "D": discriminator}
    arrays = {
        f"{letter}.{name}": tensor.detach().numpy().copy()
        for letter, module in named.items()
        for name, tensor in module.named_parameters()
    }
    rng = np.random.default_rng(0)
    real = rng.uniform(-1, 1, (BATCH, PIXELS)).astype(np.float32)
    z = rng.normal(size=(BATCH, LATENT)).astype(np.float32)
    state = gan.from_params(config, spec, interop.load(config, spec, arrays))
    _, ours = jax.jit(gan.play, static_argnums=0)(config, state, real.reshape(-1, 28, 28, 1), z)
    theirs = play(torch.from_numpy(real), torch.from_numpy(z))
    for name, value in zip(("d_loss", "g_loss"), theirs, strict=True):
        np.testing.assert_allclose(float(ours[name]), value.item(), rtol=1e-5)


def pytorch_steps_per_second(steps: int) -> float:
    """The plain eager loop, in this process."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    _, _, play = pytorch_game(device)
    images = torch.randint(0, 256, (60_000, PIXELS), dtype=torch.uint8, device=device)

    def run(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            indices = torch.randint(0, len(images), (BATCH,), device=device)
            real = images[indices].float() / 127.5 - 1
            d_loss, _ = play(real, torch.randn(BATCH, LATENT, device=device))
        d_loss.item()
        return count / (time.perf_counter() - start)

    run(WARM_UP)
    return run(steps)


def genjax_steps_per_second(steps: int, data_dir: str) -> float:
    """The command, as a user types it."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "genjax.cli", "train", "gan_mnist"]
        command += ["--data-dir", data_dir, "--steps", str(steps), "--run", str(run)]
        subprocess.run(command, check=True, capture_output=True)
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first, last = records[0], records[-1]
    return (last["step"] - first["step"]) / (last["seconds"] - first["seconds"])


def main() -> None:
    """Run both in turn, print each pair and the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", default="~/tensorflow_datasets", help="where MNIST lies")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each")
    parser.add_argument("--steps", type=int, default=10_000, help="steps of a run of genjax")
    parser.add_argument("--torch-only", type=int, metavar="STEPS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.torch_only:
        print(pytorch_steps_per_second(arguments.torch_only))
        return
    check_same_game()
    ours, theirs = [], []
    for _ in range(arguments.rounds):
        command = [sys.executable, __file__, "--torch-only", str(arguments.steps // 4)]
        theirs.append(float(subprocess.run(command, check=True, capture_output=True).stdout))
        ours.append(genjax_steps_per_second(arguments.steps, arguments.data_dir))
        print(f"genjax {ours[-1]:6.0f}  PyTorch {theirs[-1]:6.0f}  x{ours[-1] / theirs[-1]:.2f}")
        sys.stdout.flush()
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    print(
        f"median steps/s: genjax {statistics.median(ours):.0f}, PyTorch "
        f"{statistics.median(theirs):.0f}; ratio {statistics.median(ratios):.2f} "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f}); Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main()
