"""Glow on CIFAR-10 as in the paper: 3 levels of 32 steps, 512 channels, 44 million parameters.

    genjax train glow_cifar10

Hardware: a GPU; not measured. On 2 CPU cores a step of 8 images takes 1.6 s; use
`glow_cifar10_small` there. Expected: the paper reaches 3.35 bits/dim.
"""

from genjax import DataOptions, Recipe
from genjax.models.glow import GlowConfig
from genjax.steps.optim import OptimizerConfig

recipe = Recipe(
    family="glow",
    data="tfds:cifar10",
    data_options=DataOptions(test_split="test"),
    model=GlowConfig(
        levels=3,
        steps_per_level=32,
        hidden_features=512,
        ema_decay=0.999,
        # The paper's rate, after ten epochs of warm-up as in its published code.
        optimizer=OptimizerConfig(learning_rate=1e-3, beta1=0.9, warmup_steps=8_000, clip_norm=1.0),
    ),
    steps=400_000,
    batch_size=64,
    log_interval=100,
    save_interval=5000,
)
