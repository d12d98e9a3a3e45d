"""IWAE on MNIST: `vae_mnist` with the bound of 50 importance samples (Burda et al. 2016).

    genjax train vae_mnist_iwae

Hardware: one CPU core, 67 minutes. Expected: NLL 87.8 nats by `genjax evaluate` (5,000 importance
samples, 10,000 test images) after 70 epochs, and falling; Burda et al. reach 84.78 after 3,280 with
the same batches of 20.
"""

from genjax import DataOptions, Recipe
from genjax.models.vae import VaeConfig
from genjax.steps.optim import OptimizerConfig

STEPS = 210_000

recipe = Recipe(
    family="vae",
    data="tfds:mnist",
    data_options=DataOptions(test_split="test"),
    model=VaeConfig(
        hidden_sizes=(200, 200),
        activation="tanh",
        latent_size=50,
        bound="iwae",
        samples=50,
        ema_decay=0.9999,
        optimizer=OptimizerConfig(
            learning_rate=1e-3, beta1=0.9, epsilon=1e-4, schedule="linear", decay_steps=STEPS
        ),
    ),
    batch_size=20,
    steps=STEPS,
    log_interval=500,
    save_interval=15_000,
)
