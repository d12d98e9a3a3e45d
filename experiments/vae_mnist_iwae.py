"""IWAE on MNIST: `vae_mnist` with the bound of 50 importance samples (Burda et al. 2016).

    genjax train vae_mnist_iwae

Hardware: a GPU; on 2 CPU cores a step takes 85 ms, so 6 hours, not measured to its end. Expected:
Burda et al. reach an NLL of 84.78 nats with five times the epochs. After 12,900 steps
(27 epochs, with --steps 15000 --optimizer.decay-steps 15000) the NLL was 93.0, and falling.
"""

from genjax import DataOptions, Recipe
from genjax.models.vae import VaeConfig
from genjax.steps.optim import AdamConfig

STEPS = 240_000

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
        optimizer=AdamConfig(learning_rate=1e-3, beta1=0.9, decay_steps=STEPS),
    ),
    steps=STEPS,
    log_every=100,
    save_every=2000,
)
