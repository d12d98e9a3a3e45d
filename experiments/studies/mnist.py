"""Train, evaluate and compare every family on MNIST.

    python experiments/studies/mnist.py --output mnist

About four hours on 2 CPU cores, a quarter of them Glow's. What is there already is not done again:
after Ctrl-C the same command goes on. The output folder then holds a run for each recipe,
`comparison.csv`, and `comparison.html`, a page with samples, paths in latent space, nearest
training images and curves.
"""

import argparse
import dataclasses
import logging
from pathlib import Path

import genjax
from genjax.run.folder import RunFolder

RECIPES = (
    "gan_mnist",
    "dcgan_mnist",
    "wgan_gp_mnist",
    "stylegan2_mnist",
    "vae_mnist",
    "glow_mnist",
    "diffusion_mnist",
)


def train(name: str, run: Path, data_dir: str | None) -> None:
    """Train a run to the end of its recipe, from its last checkpoint."""
    if run.exists():
        genjax.resume(run)
        return
    recipe = genjax.load_recipe(name)
    options = dataclasses.replace(recipe.data_options, data_dir=data_dir)
    genjax.train(dataclasses.replace(recipe, data_options=options), run)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("mnist"))
    parser.add_argument("--data-dir", help="where tensorflow-datasets has, or will have, MNIST")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    runs = [args.output / name for name in RECIPES]
    for name, run in zip(RECIPES, runs, strict=True):
        train(name, run, args.data_dir)
        if not RunFolder(run).evaluations.exists():
            genjax.evaluate(run)
    page = args.output / "comparison.html"
    print(genjax.compare(runs, csv=page.with_suffix(".csv"), html=page))


if __name__ == "__main__":
    main()
