"""`genjax train`, the whole command, beside the same model in eager PyTorch: the MLP GAN or VAE.

    pip install -e '.[bench]'
    python experiments/benchmarks/command_pytorch.py gan --data-dir ~/tensorflow_datasets
    python experiments/benchmarks/command_pytorch.py vae --data-dir ~/tensorflow_datasets

Same networks, losses, optimizer, batch and precision, MNIST resident in both. Each run is a process
of its own and they alternate, so that a change in the machine's speed meets both. A rate is steps
over wall time from the first log record to the last: start-up, reading the data and compilation
are left out; metrics, records, progress, grids, evaluation and checkpoints are in.

PyTorch's loop is the plain one, without any metric. First it is checked that both compute the
same: from the same parameters, noise and images, the losses must agree.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

BATCH, PIXELS = 128, 784
WARM_UP = 100


class Contest(NamedTuple):
    """A model on both sides.

    Attributes:
        genjax: Arguments of `genjax train`.
        pytorch: `device -> step`, where `step(gray images [B, 784] in [0, 1])` trains on a batch.
        check: Raises when the two compute different losses.
    """

    genjax: list[str]
    pytorch: Callable[[str], Callable[[Any], Any]]
    check: Callable[[], None]


def pytorch_gan(device: str) -> tuple[Any, Any, Callable[[Any, Any], tuple[Any, Any]]]:
    """G, D and `play(real in [-1, 1], z) -> (d_loss, g_loss)`, a round with a step of each Adam."""
    import torch
    from torch import nn

    generator = nn.Sequential(
        nn.Linear(64, 256), nn.LeakyReLU(0.01), nn.Linear(256, PIXELS), nn.Tanh()
    ).to(device)
    discriminator = nn.Sequential(nn.Linear(PIXELS, 128), nn.LeakyReLU(0.01), nn.Linear(128, 1))
    discriminator = discriminator.to(device)
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


def gan_step(device: str) -> Callable[[Any], Any]:
    """The GAN's plain eager step."""
    import torch

    _, _, play = pytorch_gan(device)
    return lambda gray: play(2 * gray - 1, torch.randn(BATCH, 64, device=device))[0]


def check_gan() -> None:
    """Both GANs give the same losses from the same parameters, noise and images."""
    import jax
    import torch

    from genjax.interop import gan as interop
    from genjax.models import gan
    from genjax.types import ImageSpec

    config, spec = gan.GanConfig(), ImageSpec(28, 28, 1)
    generator, discriminator, play = pytorch_gan("cpu")
    named = {"G": generator, "D": discriminator}
    arrays = {
        f"{letter}.{name}": tensor.detach().numpy().copy()
        for letter, module in named.items()
        for name, tensor in module.named_parameters()
    }
    rng = np.random.default_rng(0)
    real = rng.uniform(-1, 1, (BATCH, PIXELS)).astype(np.float32)
    z = rng.normal(size=(BATCH, 64)).astype(np.float32)
    state = gan.from_params(config, spec, interop.load(config, spec, arrays))
    _, ours = jax.jit(gan.play, static_argnums=0)(config, state, real.reshape(-1, 28, 28, 1), z)
    theirs = play(torch.from_numpy(real), torch.from_numpy(z))
    for name, value in zip(("d_loss", "g_loss"), theirs, strict=True):
        np.testing.assert_allclose(float(ours[name]), value.item(), rtol=1e-5)


def pytorch_vae(device: str) -> tuple[Any, Callable[[Any, Any], Any], Any]:
    """The 784-400-20 of PyTorch's examples: layers, `loss(gray, noise)`, and its Adam."""
    import torch
    from torch import nn
    from torch.nn import functional

    layers = nn.ModuleDict(
        {
            "fc1": nn.Linear(PIXELS, 400),
            "fc21": nn.Linear(400, 20),
            "fc22": nn.Linear(400, 20),
            "fc3": nn.Linear(20, 400),
            "fc4": nn.Linear(400, PIXELS),
        }
    ).to(device)

    def loss(gray: Any, noise: Any) -> Any:
        hidden = functional.relu(layers["fc1"](gray))
        mean, log_var = layers["fc21"](hidden), layers["fc22"](hidden)
        z = mean + noise * torch.exp(0.5 * log_var)
        logits = layers["fc4"](functional.relu(layers["fc3"](z)))
        fit = functional.binary_cross_entropy_with_logits(logits, gray, reduction="sum")
        kl = -0.5 * torch.sum(1 + log_var - mean**2 - log_var.exp())
        return (fit + kl) / len(gray)

    return layers, loss, torch.optim.Adam(layers.parameters(), 1e-3)


def vae_step(device: str) -> Callable[[Any], Any]:
    """The VAE's plain eager step."""
    import torch

    _, loss_fn, adam = pytorch_vae(device)

    def step(gray: Any) -> Any:
        loss = loss_fn(gray, torch.randn(BATCH, 20, device=device))
        adam.zero_grad()
        loss.backward()
        adam.step()
        return loss

    return step


def check_vae() -> None:
    """Both VAEs give the same loss from the same parameters and images, and ours' noise."""
    import jax
    import torch

    from genjax.interop import vae as interop
    from genjax.models import vae
    from genjax.types import Batch, ImageSpec

    config, spec = vae.VaeConfig(binarization="none"), ImageSpec(28, 28, 1)
    layers, loss_fn, _ = pytorch_vae("cpu")
    arrays = {name: tensor.detach().numpy().copy() for name, tensor in layers.named_parameters()}
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 28, 28, 1), np.uint8)
    state = vae.from_params(config, spec, interop.load(config, spec, arrays))
    key = jax.random.key(0)
    batch = Batch(images, np.zeros(BATCH, np.int32))
    _, metrics = jax.jit(vae.step, static_argnums=0)(config, state, batch, key)
    standard = vae.Normal(jax.numpy.zeros((BATCH, 20)), jax.numpy.zeros((BATCH, 20)))
    noise = np.array(vae.draw(standard, jax.random.split(key)[1], 1)[0])
    gray = images.reshape(BATCH, -1).astype(np.float32) / 255
    theirs = loss_fn(torch.from_numpy(gray), torch.from_numpy(noise))
    np.testing.assert_allclose(float(metrics["loss"]), theirs.item(), rtol=1e-5)


VAE = "--hidden-sizes 400 --activation relu --latent-size 20 --binarization none --ema-decay 0"
CONTESTS = {
    "gan": Contest(["gan_mnist"], gan_step, check_gan),
    "vae": Contest(
        ["vae_mnist", *VAE.split(), "--optimizer.decay-steps", "0", "--log-every", "100"],
        vae_step,
        check_vae,
    ),
}


def pytorch_steps_per_second(contest: Contest, steps: int) -> float:
    """The plain eager loop, in this process."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    step = contest.pytorch(device)
    images = torch.randint(0, 256, (60_000, PIXELS), dtype=torch.uint8, device=device)

    def run(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            indices = torch.randint(0, len(images), (BATCH,), device=device)
            loss = step(images[indices].float() / 255)
        loss.item()
        return count / (time.perf_counter() - start)

    run(WARM_UP)
    return run(steps)


def genjax_steps_per_second(contest: Contest, steps: int, data_dir: str) -> float:
    """The command, as a user types it."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "genjax.cli", "train", *contest.genjax]
        command += ["--batch-size", str(BATCH), "--data-dir", data_dir]
        command += ["--steps", str(steps), "--save-every", str(steps // 2), "--run", str(run)]
        subprocess.run(command, check=True, capture_output=True)
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first, last = records[0], records[-1]
    return (last["step"] - first["step"]) / (last["seconds"] - first["seconds"])


def main() -> None:
    """Run both in turn, print each pair and the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=CONTESTS)
    parser.add_argument("--data-dir", default="~/tensorflow_datasets", help="where MNIST lies")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each")
    parser.add_argument("--steps", type=int, default=10_000, help="steps of a run of genjax")
    parser.add_argument("--torch-only", type=int, metavar="STEPS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    contest = CONTESTS[arguments.model]
    if arguments.torch_only:
        print(pytorch_steps_per_second(contest, arguments.torch_only))
        return
    contest.check()
    ours, theirs = [], []
    for _ in range(arguments.rounds):
        command = [sys.executable, __file__, arguments.model]
        command += ["--torch-only", str(arguments.steps // 4)]
        theirs.append(float(subprocess.run(command, check=True, capture_output=True).stdout))
        ours.append(genjax_steps_per_second(contest, arguments.steps, arguments.data_dir))
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
