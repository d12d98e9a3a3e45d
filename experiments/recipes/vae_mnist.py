"""VAE on MNIST: 784-200-200-50, as Burda et al. 2016, binarized anew at each step.

    genjax train vae_mnist

Hardware: 2 CPU cores, 20 minutes, and 26 beside other work. Expected: NLL 88.0 nats by
`genjax evaluate` (5,000 importance samples, 10,000 test images), ELBO -91.5, 17 active latents;
most samples readable, a few between two classes. Five million batches of 20, the size of Burda et
al., take two hours on one core and give 86.3 with 19 active latents, where they report 86.76; the
command is in experiments/README.md.
"""

from genjax import DataOptions, Recipe
from genjax.models.vae import VaeConfig
from genjax.steps.optim import OptimizerConfig

STEPS = 240_000

recipe = Recipe(
    family="vae",
    data="tfds:mnist",
    data_options=DataOptions(test_split="test"),
    model=VaeConfig(
        hidden_sizes=(200, 200),
        activation="tanh",
        latent_size=50,
        ema_decay=0.9999,
        optimizer=OptimizerConfig(
            learning_rate=1e-3, beta1=0.9, schedule="linear", decay_steps=STEPS
        ),
    ),
    steps=STEPS,
    log_interval=500,
    save_interval=10_000,
)
