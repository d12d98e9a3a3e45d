"""x."""

from genjax import DataOptions, Recipe
from genjax.models.vae import VaeConfig
from genjax.steps.optim import AdamConfig

STEPS = 40_000

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
    batch_size=128,
    log_every=100,
    save_every=2000,
)
