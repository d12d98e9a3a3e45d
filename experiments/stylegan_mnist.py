"""StyleGAN on MNIST, grown from 4x4 to 32x32, narrow enough for a laptop.

    genjax train stylegan_mnist

Hardware: CPU. Expected: to be measured.
"""

from genjax import DataOptions, Recipe
from genjax.models.stylegan import PlayerConfig, StyleganConfig

PLAYER = PlayerConfig(learning_rate=0.002, channel_base=512, channel_max=128)

recipe = Recipe(
    family="stylegan",
    data="tfds:mnist",
    data_options=DataOptions(border=2, test_split="test"),
    model=StyleganConfig(
        latent_size=128,
        style_size=128,
        mapping_layers=4,
        fade_steps=1000,
        stable_steps=1000,
        r1_gamma=1.0,
        generator=PLAYER,
        discriminator=PLAYER,
    ),
    steps=12_000,
    batch_size=32,
    save_every=1000,
)
