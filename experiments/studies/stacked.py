"""How many of Stacked MNIST's 1,000 modes does a game find?

    python experiments/studies/stacked.py --output stacked

Each image has three digits of MNIST as its channels. The networks are DCGAN's, of one width, on
images of 32x32: with the paper's game, as WGAN-GP, and with the relativistic loss, R1 and R2. By
the usual protocol (Srivastava et al. 2017, section 4) a classifier of MNIST names the digits of
26,000 samples; printed are the modes found, and the divergence of their shares from equal ones. A
run that is there already is not trained again.
"""

import argparse
import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np

import genjax
from genjax import Recipe
from genjax.evaluation.evaluate import feature_net, measure_samples

DATA, MODES, SAMPLES = "stacked:tfds:mnist", 1000, 26_000
RECIPES = {
    "DCGAN": "dcgan_mnist_paper",
    "WGAN-GP": "wgan_gp_mnist",
    "relativistic, R1, R2": "dcgan_mnist",
}


def recipe(name: str, steps: int, features: int, data_dir: str | None) -> Recipe:
    """Return a recipe for Stacked MNIST, of so many steps and features."""
    found = genjax.load_recipe(name)
    model: Any = found.model
    players = {}
    for player in ("generator", "critic" if found.family == "wgan_gp" else "discriminator"):
        config = getattr(model, player)
        ends = steps if config.decay_steps else 0
        players[player] = dataclasses.replace(config, features=features, decay_steps=ends)
    return dataclasses.replace(
        found,
        data=DATA,
        data_options=dataclasses.replace(found.data_options, border=2, data_dir=data_dir),
        model=dataclasses.replace(model, **players),
        steps=steps,
        save_interval=steps // 10,
        log_interval=100,
        quality="energy_distance",
    )


def modes_and_divergence(run: Path) -> tuple[int, float]:
    """Return the modes of samples of the last step, and `KL(shares || equal shares)` in nats."""
    trained = genjax.load(run, "latest")
    net, _ = feature_net(trained.recipe, "classifier", None)
    key = jax.random.key(0)
    found = measure_samples(trained.recipe, trained.state, net, key, SAMPLES, {})
    shares = np.bincount(found.logits.argmax(axis=1), minlength=MODES) / len(found)
    some = shares[shares > 0]
    return len(some), float((some * np.log(some * MODES)).sum())


def main() -> None:
    """Train, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--steps", type=int, default=10_000, help="a multiple of 1,000")
    parser.add_argument("--features", type=int, default=16, help="channels next to the image")
    parser.add_argument("--data-dir", help="where tensorflow-datasets has, or will have, MNIST")
    parser.add_argument("--only", nargs="+", choices=list(RECIPES), help="games")
    arguments = parser.parse_args()
    if arguments.steps < 1 or arguments.steps % 1000:
        parser.error(f"--steps {arguments.steps} should be a multiple of 1,000")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print("| game | modes of 1,000 | KL |\n|---|---|---|", flush=True)
    for game, name in RECIPES.items():
        if arguments.only and game not in arguments.only:
            continue
        run = arguments.output / name
        if not run.exists():
            genjax.train(recipe(name, arguments.steps, arguments.features, arguments.data_dir), run)
        modes, divergence = modes_and_divergence(run)
        print(f"| {game} | {modes:,} | {divergence:.3f} |", flush=True)


if __name__ == "__main__":
    main()
