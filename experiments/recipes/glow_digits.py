"""Glow on the 8x8 digits, in 16 gray levels: 2 levels of 8 steps, 64 channels.

    genjax train glow_digits

Hardware: 2 CPU cores, a minute. Expected: 2.20 bits/dim on 360 held-out images (uniform noise is
4), round-trip error below 1e-5; most samples readable. Trained for longer it overfits: 2.27 after
3,000 steps, at 1.81 on the training images.
"""

from genjax import DataOptions, Recipe
from genjax.models.glow import GlowConfig
from genjax.steps.optim import OptimizerConfig

STEPS = 2000

recipe = Recipe(
    family="glow",
    data="digits",
    data_options=DataOptions(size=(16,), split="train[:80%]", test_split="train[80%:]"),
    model=GlowConfig(
        hidden_features=64,
        bits=4,
        ema_decay=0.999,
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
    batch_size=64,
    log_interval=100,
    save_interval=500,
)
