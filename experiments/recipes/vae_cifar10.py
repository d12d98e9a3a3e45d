r"""VAE on CIFAR-10, 32x32, residual convolutions and a discretized logistic likelihood.

    genjax train vae_cifar10

Hardware: a GPU; not measured to its end. A smaller run on 2 CPU cores, of any copy of the images:

    genjax train vae_cifar10 --data cifar10/train.zip --split 'train[:90%]' \
        --test-split 'train[90%:]' --features 16 --steps 800 --optimizer.decay-steps 800 \
        --optimizer.learning-rate 1e-3 --ema-decay 0.99

Expected: the smaller run gives, after 600 steps (3 minutes beside other work), an eval_nll of
14,800 nats, 6.95 bits a value and falling, from JPEG files; the samples are gray clouds.
"""

from genjax import DataOptions, Recipe
from genjax.models.vae import VaeConfig
from genjax.steps.optim import OptimizerConfig

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
        optimizer=OptimizerConfig(
            learning_rate=5e-4, beta1=0.9, schedule="linear", decay_steps=STEPS
        ),
    ),
    steps=STEPS,
    log_interval=100,
    save_interval=2000,
)
