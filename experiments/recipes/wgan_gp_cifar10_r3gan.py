"""R3GAN on CIFAR-10, with the paper's networks: 20.8 and 20.7 million parameters with classes.

    genjax train wgan_gp_cifar10_r3gan

Hardware: a GPU or a TPU slice; a step of 512 images takes minutes on 2 CPU cores. Expected: the
paper reports an FID of 1.96 after about 200 million images, with labels (Huang et al. 2024, section
5); it was not trained here.

The recipe of the family `wgan_gp` plays another game here: the relativistic loss with R1 and R2 in
the place of the Wasserstein distance and its penalty, and a step of G for each of D. At 256x256
the networks have 23.06 and 23.01 million parameters, as the paper's (its weights fall during the
training, and these are constant).
"""

from genjax import DataOptions, Recipe
from genjax.models.wgan import PlayerConfig, WganGpConfig

PLAYER = PlayerConfig(features=768, learning_rate=2e-4, beta1=0.0, beta2=0.99)

recipe = Recipe(
    family="wgan_gp",
    data="tfds:cifar10",
    data_options=DataOptions(test_split="test"),
    model=WganGpConfig(
        network="r3gan",
        latent_size=64,
        conditional=True,
        loss="relativistic",
        r1_gamma=0.05,
        r2_gamma=0.05,
        gradient_penalty_weight=0.0,
        n_critic=1,
        ema_decay=0.999,
        generator=PLAYER,
        critic=PLAYER,
    ),
    steps=400_000,
    batch_size=512,
    save_interval=2000,
)
