"""The MLP GAN on the digits of scikit-learn: 1,797 images of 8x8, no download."""

from genjax import Recipe
from genjax.models.gan import GanConfig

recipe = Recipe(family="gan", data="digits", model=GanConfig(), steps=20_000)
