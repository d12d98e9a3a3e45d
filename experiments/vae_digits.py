"""VAE on the digits of scikit-learn: 1,797 real images, no download.

    genjax train vae_digits

Hardware: 2 CPU cores, TODO. Expected: TODO
"""

from genjax import DataOptions, Recipe
from genjax.models.vae import VaeConfig

recipe = Recipe(
    family="vae",
    data="digits",
    data_options=DataOptions(split="train[:80%]", test_split="train[80%:]", size=(16,)),
    model=VaeConfig(ema_decay=0.999),
    steps=6_000,
    save_every=1000,
)
