"""DCGAN's networks on MNIST, 28x28 with a border of 2 pixels.

    genjax train dcgan_mnist

Hardware: 2 CPU cores, one to two minutes. Expected: TODO

A quarter of the paper's width, no batch norm in D, the relativistic loss with R1 and R2, and rates
that begin high and fall to 0. The paper's own game is `dcgan_mnist_paper`.
"""

from genjax import DataOptions, Recipe
from genjax.models.dcgan import DcganConfig, PlayerConfig

STEPS = 20_000


def player(batch_norm: bool) -> PlayerConfig:
    """Return a player's config; both have the same width and rate."""
    return PlayerConfig(
        features=16,
        batch_norm=batch_norm,
        learning_rate=3e-3,
        schedule="linear",
        decay_steps=STEPS,
    )


recipe = Recipe(
    family="dcgan",
    data="tfds:mnist",
    data_options=DataOptions(border=2, test_split="test"),
    model=DcganConfig(
        loss="relativistic",
        r1_gamma=1.0,
        r2_gamma=1.0,
        ema_decay=0.999,
        generator=player(batch_norm=True),
        discriminator=player(batch_norm=False),
    ),
    steps=STEPS,
    batch_size=64,
    log_interval=100,
    save_interval=2000,
)
