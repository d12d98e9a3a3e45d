r"""BigGAN on CIFAR-10, 32x32, class-conditional: 64 features, the single-GPU recipe of its authors.

    genjax train biggan_cifar10

Hardware: a GPU; not measured to its end. On 2 CPU cores a step takes 7 seconds; a smaller run:

    genjax train biggan_cifar10 --data cifar10/train.zip --split 'train[:90%]' \
        --test-split 'train[90%:]' --generator.features 8 --discriminator.features 8 \
        --discriminator-steps 2 --ema-decay 0.999 --ema-start 0 --steps 6000 --save-interval 500

Expected: the smaller run gives, after 3,500 steps in 20 minutes, an energy_distance of about 0.12
(1,000 samples against 1,000 training images in [-1, 1], from JPEG files) and the backgrounds and
colours of each class.
"""

from genjax import DataOptions, Recipe
from genjax.models.biggan import BigganConfig, PlayerConfig

PLAYER = PlayerConfig(features=64, attention_resolutions=(), learning_rate=2e-4, beta1=0.0)

recipe = Recipe(
    family="biggan",
    data="tfds:cifar10",
    data_options=DataOptions(test_split="test"),
    model=BigganConfig(
        latent_size=128,
        hierarchical=False,
        shared_size=0,
        discriminator_steps=4,
        orthogonal_weight=0.0,
        ema_start=1000,
        generator=PLAYER,
        discriminator=PLAYER,
    ),
    steps=500_000,
    batch_size=50,
    log_interval=50,
    save_interval=5000,
)
