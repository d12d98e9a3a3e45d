"""Tests that PyTorch's counterparts of the families compute the same, and what they refuse."""

import dataclasses
import importlib.util
import sys

import numpy as np
import pytest

from experiments.studies.benchmarks.pytorch import MODULES, find
from experiments.studies.benchmarks.pytorch.steps import bench_beside_pytorch
from genjax.data.sources import expected_spec
from genjax.models import FAMILIES
from genjax.run.recipe import load_recipe
from genjax.types import UsageError

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="needs PyTorch: pip install '.[bench]'"
)


def test_the_nine_families_of_the_papers_have_counterparts():
    """A further family may do without one."""
    assert len(MODULES) >= 9
    assert MODULES.keys() <= FAMILIES.keys()


def test_without_pytorch_its_installation_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "experiments.studies.benchmarks.pytorch.gan", raising=False)
    monkeypatch.delitem(sys.modules, "experiments.studies.benchmarks.pytorch.common", raising=False)
    with pytest.raises(UsageError, match="PyTorch is not installed: pip install"):
        bench_beside_pytorch(["gan_digits_paper"])


@needs_torch
@pytest.mark.parametrize(
    "name",
    [
        "gan_digits_paper",
        "dcgan_digits_paper",
        "wgan_digits_paper",
        "wgan_gp_digits_paper",
        "vae_digits",
        "vae_mnist_iwae",
        "glow_digits",
        "biggan_digits",
        "stylegan_mnist",
        "stylegan2_mnist",
        "diffusion_mnist",
        "diffusion_cifar10",
    ],
)
def test_pytorch_computes_the_same(name):
    if name.startswith("diffusion"):
        pytest.importorskip("diffusers", reason="needs diffusers: pip install '.[bench]'")
    recipe = load_recipe(name)
    spec = expected_spec(recipe.data, recipe.data_options)
    model = recipe.model
    if name.startswith("stylegan"):  # smaller, for time
        player = {"channel_base": 128, "channel_max": 16}
        model = dataclasses.replace(
            model,
            latent_size=16,
            style_size=16,
            generator=dataclasses.replace(model.generator, **player),
            discriminator=dataclasses.replace(model.discriminator, **player),
        )
    if name == "diffusion_cifar10":
        network = dataclasses.replace(model.network, features=(16, 32), groups=4, blocks=1)
        model = dataclasses.replace(model, network=network)
    counterpart = find(recipe.family)(model, spec, 8, False)
    counterpart.check()
    import torch

    images = torch.randint(0, 256, (8, spec.channels, spec.height, spec.width), dtype=torch.uint8)
    values = [counterpart.step(i, images, torch.zeros(8, dtype=torch.long)) for i in range(5)]
    assert all(np.isfinite(value.item()) for value in values)
    assert len({value.item() for value in values}) == 5


@needs_torch
def test_pytorch_that_computes_something_else_is_noticed(monkeypatch):
    from experiments.studies.benchmarks.pytorch import gan

    recipe = load_recipe("gan_digits_paper")
    spec = expected_spec(recipe.data, recipe.data_options)
    monkeypatch.setattr(gan.gan, "LEAKY_SLOPE", 0.5)  # read by their network when it is made
    networks = gan.networks(recipe.model, spec)
    monkeypatch.setattr(gan.gan, "LEAKY_SLOPE", 0.01)
    monkeypatch.setattr(gan, "networks", lambda config, spec: networks)
    with pytest.raises(AssertionError, match="d_loss"):
        gan.check(recipe.model, spec)


@needs_torch
def test_a_config_that_pytorch_has_not_is_named():
    recipe = load_recipe("dcgan_digits_paper")
    spec = expected_spec(recipe.data, recipe.data_options)
    with pytest.raises(UsageError, match="loss = 'hinge': its PyTorch counterpart has"):
        find("dcgan")(dataclasses.replace(recipe.model, loss="hinge"), spec, 8, False)
