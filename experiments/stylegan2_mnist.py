"""StyleGAN2 on MNIST at 32x32, narrow enough for a laptop.

    genjax train stylegan2_mnist

Hardware: CPU. Expected: to be measured.
"""

from genjax import DataOptions, Recipe
from genjax.models.stylegan2 import PlayerConfig, Stylegan2Config

recipe = Recipe(
    family="stylegan2",
    data="tfds:mnist",
    data_options=DataOptions(border=2, test_split="test"),
    model=Stylegan2Config(
        latent_size=128,
        style_size=128,
        r1_gamma=1.0,
        clamp=0.0,
        generator=PlayerConfig(
            architecture="skip", channel_base=512, channel_max=128, mapping_layers=2
        ),
        discriminator=PlayerConfig(channel_base=512, channel_max=128, mapping_layers=2),
    ),
    steps=20_000,
    batch_size=32,
    save_every=1000,
)
