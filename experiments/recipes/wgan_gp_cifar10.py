"""WGAN-GP on CIFAR-10, 32x32, with the ResNets of the paper.

    genjax train wgan_gp_cifar10

Hardware: a GPU; not measured to its end. Expected: the paper reports an Inception Score of 7.86
after 100,000 steps of the generator, which correspond to these 500,000 of the critic (its table 3,
unsupervised). There the learning rate falls to 0, here it is constant; the paper's schedule is
--generator.schedule linear --generator.decay-steps 500000 --critic.schedule linear
--critic.decay-steps 500000. With --generator.features 32 --critic.features 32 on 2 CPU cores beside
other work, the first 750 steps of the critic, 150 of the generator, take 12 minutes; at steps 250,
500 and 750 energy_distance is 3.8, 0.36 and 0.33, wasserstein_estimate 8.8, 7.2 and 5.9, and the
samples are patches of colour.
"""

from genjax import DataOptions, Recipe
from genjax.models.wgan import PlayerConfig, WganGpConfig

PLAYER = PlayerConfig(learning_rate=2e-4, beta1=0.0, beta2=0.9, features=128)

recipe = Recipe(
    family="wgan_gp",
    data="tfds:cifar10",
    data_options=DataOptions(test_split="test"),
    model=WganGpConfig(network="resnet", ema_decay=0.999, generator=PLAYER, critic=PLAYER),
    steps=500_000,
    batch_size=64,
    log_interval=50,
    save_interval=5000,
)
