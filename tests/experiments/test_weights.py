"""Weights that PyTorch wrote, from the import to a model of one's own, as on the command line."""

import dataclasses
import logging
from pathlib import Path

import jax
import numpy as np
import pytest

import genjax
from genjax.cli.run import run
from genjax.interop import stylegan2 as interop
from genjax.models import dcgan, stylegan2
from genjax.types import ImageSpec
from tests.states import drawn_state

STYLE_PLAYER = stylegan2.PlayerConfig(channel_base=64, channel_max=8, mapping_layers=2)
STYLEGAN2 = stylegan2.Stylegan2Config(
    latent_size=8,
    style_size=8,
    conv_clamp=0.0,
    generator=dataclasses.replace(STYLE_PLAYER, architecture="skip"),
    discriminator=STYLE_PLAYER,
)
OPTIONS = ["--batch-size", "8", "--steps", "200", "--log-interval", "50", "--save-interval", "100"]


def _dcgan(folder: Path) -> tuple[list[str], list[str]]:
    """Write G and D as in PyTorch's example, and G's images of noise."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    generator = nn.Module()
    generator.main = nn.Sequential(
        *(nn.ConvTranspose2d(10, 16, 4, 1, 0, bias=False), nn.BatchNorm2d(16), nn.ReLU(True)),
        *(nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(True)),
        *(nn.ConvTranspose2d(8, 1, 4, 2, 1, bias=False), nn.Tanh()),
    )
    discriminator = nn.Module()
    discriminator.main = nn.Sequential(
        *(nn.Conv2d(1, 8, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)),
        *(nn.Conv2d(8, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16)),
        *(nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(16, 1, 4, 1, 0, bias=False), nn.Sigmoid()),
    )
    for _ in range(20):
        generator.main(torch.randn(64, 10, 1, 1))  # running statistics
    generator.eval()
    z = torch.randn(5, 10)
    with torch.no_grad():
        images = generator.main(z[:, :, None, None])
    np.savez(folder / "check.npz", z=z.numpy(), images=images.permute(0, 2, 3, 1).numpy())
    files = [folder / "netG_epoch_24.pth", folder / "netD_epoch_24.pth"]
    for file, module in zip(files, (generator, discriminator), strict=True):
        torch.save(module.state_dict(), file)
    return ["dcgan", *map(str, files)], ["dcgan_digits_paper", "--border", "0"]


def _stylegan2(folder: Path) -> tuple[list[str], list[str]]:
    """Write the state dicts of G_ema and D under the names of StyleGAN2-ADA's networks."""
    import torch

    spec = ImageSpec(16, 16, 1)
    state = drawn_state(stylegan2.init, STYLEGAN2, spec)
    noise = stylegan2.draw_noise(jax.random.key(0), spec, 1)
    variables = {
        "generator": state.generator.variables | {"noise": noise},
        "discriminator": state.discriminator.variables,
    }
    arrays = interop.dump(STYLEGAN2, spec, variables)
    files = [folder / "G_ema.pth", folder / "D.pth"]
    for file, letter in zip(files, ("G.", "D."), strict=True):
        own = {k.removeprefix(letter): v for k, v in arrays.items() if k.startswith(letter)}
        torch.save({k: torch.tensor(np.array(v)) for k, v in own.items()}, file)
    networks = [f"--{player}.channel-base=64" for player in ("generator", "discriminator")]
    networks += [f"--{player}.channel-max=8" for player in ("generator", "discriminator")]
    networks += [f"--{player}.mapping-layers=2" for player in ("generator", "discriminator")]
    networks += ["--latent-size=8", "--style-size=8", "--conv-clamp=0", "--augment=none"]
    return (
        ["stylegan2", *map(str, files), "--conv-clamp", "0"],
        ["stylegan2_digits", *networks],
    )


@pytest.mark.parametrize("write", [_dcgan, _stylegan2])
def test_weights_of_pytorch_become_a_model_of_ones_own(write, tmp_path, monkeypatch, caplog):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, "genjax")
    logging.getLogger("genjax").propagate = True
    weights, recipe = write(tmp_path)
    assert run(["import", *weights, "-o", "theirs.safetensors"]) == 0
    theirs = genjax.load("theirs.safetensors")
    if write is _dcgan:
        check = np.load("check.npz")
        labels = np.zeros(5, np.int32)
        images = dcgan.decode(theirs.recipe.model, theirs.state, check["z"], labels)
        np.testing.assert_allclose(images, check["images"], atol=1e-4)
    assert run(["sample", "theirs.safetensors", "-n", "4", "-o", "theirs.png"]) == 0
    network = ["--generator.features", "8", "--discriminator.features", "8", "--latent-size", "10"]
    options = [*recipe, *(network if write is _dcgan else []), *OPTIONS]
    options += ["--quality", "energy_distance", "--run", "fine", "--init", "theirs.safetensors"]
    assert run(["train", *options]) == 0
    assert "of step 0 of theirs.safetensors" in caplog.text and "fresh" not in caplog.text
    assert run(["export", "fine", "-o", "mine.safetensors", "--checkpoint", "latest"]) == 0
    assert run(["sample", "mine.safetensors", "-n", "4", "-o", "mine.png"]) == 0
    before, after = (genjax.sample(f"{each}.safetensors", n=4) for each in ("theirs", "mine"))
    assert abs(before.astype(int) - after).mean() > 5
    assert genjax.load("mine.safetensors").step == 200
