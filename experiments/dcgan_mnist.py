"""DCGAN on MNIST, 28x28, at half the paper's width.

genjax train dcgan_mnist
"""

from genjax import Recipe
from genjax.models.dcgan import DcganConfig, PlayerConfig

recipe = Recipe(
    family="dcgan",
    data="tfds:mnist",
    model=DcganConfig(
        ema_decay=0.999,
        generator=PlayerConfig(features=32),
        discriminator=PlayerConfig(features=32),
    ),
    steps=12_000,
    batch_size=64,
    log_every=50,
    save_every=500,
)
