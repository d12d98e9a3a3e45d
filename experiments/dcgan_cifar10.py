"""DCGAN on CIFAR-10, 32x32.

genjax train dcgan_cifar10
"""

from genjax import Recipe
from genjax.models.dcgan import DcganConfig

recipe = Recipe(
    family="dcgan",
    data="tfds:cifar10",
    model=DcganConfig(ema_decay=0.999),
    steps=50_000,
    batch_size=64,
    log_every=50,
    save_every=500,
)
