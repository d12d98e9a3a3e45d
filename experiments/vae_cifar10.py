"""VAE on CIFAR-10, 32x32, residual convolutions and a discretized logistic likelihood.

    genjax train vae_cifar10

Hardware: TODO. Expected: TODO
"""

from genjax import DataOptions, Recipe
from genjax.models.vae import VaeConfig
from genjax.steps.optim import AdamConfig

STEPS = 100_000

recipe = Recipe(
    family="vae",
    data="tfds:cifar10",
    data_options=DataOptions(test_split="test"),
    model=VaeConfig(
        network="resnet",
        features=64,
        latent_size=128,
        likelihood="discretized_logistic",
        binarization="none",
        ema_decay=0.999,
        optimizer=AdamConfig(learning_rate=5e-4, beta1=0.9, decay_steps=STEPS),
    ),
    steps=STEPS,
    log_every=100,
    save_every=2000,
)
