"""The MLP GAN on MNIST, 28x28, with the widths of the paper's exercise: 64-256-784, 784-128-1."""

from genjax import Recipe
from genjax.models.gan import GanConfig

recipe = Recipe(family="gan", data="tfds:mnist", model=GanConfig(), steps=100_000, save_every=5000)
