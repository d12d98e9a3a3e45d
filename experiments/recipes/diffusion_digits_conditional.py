"""Flow matching on the digits, whose network sees the class, with guidance.

    genjax train diffusion_digits_conditional
    genjax tradeoff runs/diffusion_digits_conditional --option guidance

Hardware: 2 CPU cores, 7 minutes beside other work. Expected: a Frechet distance of 4.1 +- 2.0 by
`genjax evaluate` (floor 3.7), 3.83 bits/dim of 256 gray levels; nearly all samples are readable and
of the class that was asked for. `--guidance 2` makes them more typical: precision 0.96 to 1.00,
recall 0.95 to 0.74.
"""

from genjax import DataOptions, Recipe
from genjax.models.diffusion import DiffusionConfig
from genjax.nn.unet import UNetConfig
from genjax.steps.optim import OptimizerConfig

STEPS = 6000

recipe = Recipe(
    family="diffusion",
    data="digits",
    data_options=DataOptions(size=(16,), split="train[:80%]", test_split="train[80%:]"),
    model=DiffusionConfig(
        path="straight",
        prediction="velocity",
        dequantization="uniform",
        time_sampling="logit_normal",
        conditional=True,
        sampler="heun",
        sampling_steps=10,
        ema_decay=0.999,
        network=UNetConfig(features=(32, 64), blocks=1, attention_sizes=(), groups=8, patches=True),
        optimizer=OptimizerConfig(
            learning_rate=2e-3,
            beta1=0.9,
            warmup_steps=100,
            schedule="linear",
            decay_steps=STEPS,
            clip_norm=1.0,
        ),
    ),
    steps=STEPS,
    batch_size=32,
    log_interval=100,
    save_interval=2000,
    quality="latest",
)
