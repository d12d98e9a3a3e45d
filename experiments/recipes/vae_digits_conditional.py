"""VAE on the digits of scikit-learn whose encoder and decoder see the class.

    genjax train vae_digits_conditional
    genjax classify runs/vae_digits_conditional

Hardware: 2 CPU cores, half a minute (two beside other work). Expected: eval_nll 83.7 nats (256
pixels, binarized anew each time; 360 held-out images), all 20 latents active; soft samples, most of
them the class that was asked for. By Bayes' rule 352 of the 360 images are classified rightly
(97.8%, NLL 0.07 nats, calibration error 0.016), and 358 by the classifier that was trained for it.
"""

from genjax import DataOptions, Recipe
from genjax.models.vae import VaeConfig

recipe = Recipe(
    family="vae",
    data="digits",
    data_options=DataOptions(split="train[:80%]", test_split="train[80%:]", size=(16,)),
    model=VaeConfig(conditional=True, ema_decay=0.999),
    steps=6_000,
    save_interval=1000,
)
