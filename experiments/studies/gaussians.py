"""Which loss finds every mode? GAN, WGAN and WGAN-GP on mixtures of 8 and of 25 Gaussians.

    python experiments/studies/gaussians.py --output gaussians

A point is an image of 1x2 pixels, so the families train here as they do on images, with the same
MLPs for all: 3 hidden layers for each player. The last row gives GAN's discriminator ten times the
learning rate, where the watch of `genjax train` should warn. Prints the table of
experiments/README.md, and writes the samples over time of the first seed as a PNG for each mixture.

A sample is good within 3 standard deviations of a mode (98.9% of the data are), and a mode is
covered when at least a tenth of its fair share of the samples is good there.
"""

import argparse
import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax.metrics.watch import Watch
from genjax.models import gan, wgan
from genjax.run.sharding import as_array
from genjax.types import Config, Family, ImageSpec, Metrics, State

SPEC = ImageSpec(1, 2, 1)
BATCH = 128
LOG_EVERY, SNAPSHOTS, SAMPLES = 100, 6, 5000


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Equal Gaussians at `modes`, [K, 2], inside [-1, 1]."""

    name: str
    modes: np.ndarray
    std: float


# The warnings of the watch, and words by which to recognize them.
SIGNS = {
    "D wins": "discriminator wins",
    "collapse": "mode collapse",
    "edges": "wider than the data",
}

RING = np.arange(8) * np.pi / 4
GRID = np.linspace(-0.8, 0.8, 5)
MIXTURES = (
    Mixture("8 Gaussians", 0.8 * np.stack([np.cos(RING), np.sin(RING)], axis=1), 0.02),
    Mixture("25 Gaussians", np.stack(np.meshgrid(GRID, GRID), axis=-1).reshape(-1, 2), 0.02),
)


@dataclasses.dataclass(frozen=True)
class Contender:
    """A family, its config, and `step(config, state, points, key) -> (state, metrics)`."""

    name: str
    family: Family
    config: Config
    step: Callable[[Any, State, jax.Array, jax.Array], tuple[State, Metrics]]
    steps_a_turn: int = 1  # steps of the generator


def step_gan(config: Any, state: State, real: jax.Array, key: jax.Array) -> tuple[State, Metrics]:
    """Take a step of each player of the MLP GAN."""
    return gan.update_players(
        config, state, real, jax.random.normal(key, (len(real), config.latent_size))
    )


def step_wgan(config: Any, state: State, real: jax.Array, key: jax.Array) -> tuple[State, Metrics]:
    """Take a step of WGAN or WGAN-GP, without labels."""
    return wgan.update_players(config, state, real, None, key)


def contenders(latent_size: int, hidden_sizes: tuple[int, ...]) -> list[Contender]:
    """List the models to compare, with the same MLPs, each with its paper's optimizer.

    The WGANs learn a few times faster than at the papers' rates, which are for runs of a hundred
    thousand steps. They are scaled to this kind of data: a weaker gradient penalty, as the authors
    of WGAN-GP use on their mixtures, and a wider clip.
    """

    def mlp(player: Any, **fields: Any) -> Any:
        return dataclasses.replace(player, hidden_sizes=hidden_sizes, **fields)

    gan_config = gan.GanConfig(
        latent_size=latent_size,
        generator=mlp(gan.PlayerConfig()),
        discriminator=mlp(gan.PlayerConfig()),
    )
    too_strong = dataclasses.replace(
        gan_config, discriminator=mlp(gan.PlayerConfig(), learning_rate=2e-3)
    )
    wgan_config = wgan.WganConfig(network="mlp", latent_size=latent_size, weight_clip=0.05)
    wgan_config = dataclasses.replace(
        wgan_config,
        generator=mlp(wgan_config.generator, learning_rate=2e-4),
        critic=mlp(wgan_config.critic, learning_rate=2e-4),
    )
    gp_config = wgan.WganGpConfig(
        network="mlp", latent_size=latent_size, gradient_penalty_weight=0.1
    )
    gp_config = dataclasses.replace(
        gp_config,
        generator=mlp(gp_config.generator, learning_rate=5e-4),
        critic=mlp(gp_config.critic, learning_rate=5e-4),
    )
    return [
        Contender("GAN", gan.FAMILY, gan_config, step_gan),
        Contender("WGAN", wgan.WGAN, wgan_config, step_wgan, wgan_config.n_critic),
        Contender("WGAN-GP", wgan.WGAN_GP, gp_config, step_wgan, gp_config.n_critic),
        Contender("GAN, D's rate x 10", gan.FAMILY, too_strong, step_gan),
    ]


def train(
    contender: Contender, mixture: Mixture, seed: int, steps: int
) -> tuple[list[np.ndarray], list[str]]:
    """Train; return samples [SAMPLES, 2] at SNAPSHOTS times, and the warnings of the watch."""
    modes = jnp.asarray(mixture.modes, jnp.float32)
    init_key, step_key, sample_key = jax.random.split(jax.random.key(seed), 3)

    @functools.partial(jax.jit, donate_argnums=0)
    def run(state: State) -> tuple[State, Metrics]:
        def one(state: State, _: None) -> tuple[State, Metrics]:
            keys = jax.random.split(jax.random.fold_in(step_key, state.step), 3)
            centres = modes[jax.random.randint(keys[0], (BATCH,), 0, len(modes))]
            points = centres + mixture.std * jax.random.normal(keys[1], (BATCH, 2))
            return contender.step(contender.config, state, points.reshape(-1, 1, 2, 1), keys[2])

        return jax.lax.scan(one, state, None, length=LOG_EVERY)

    sample = jax.jit(contender.family.sample, static_argnums=0)
    labels = jnp.zeros(SAMPLES, jnp.int32)
    init = jax.jit(contender.family.init, static_argnums=(0, 2))
    state = init(contender.config, init_key, SPEC)
    steps *= contender.steps_a_turn
    watch, warnings, snapshots = Watch(), [], []
    for step in range(LOG_EVERY, steps + 1, LOG_EVERY):
        state, metrics = run(state)
        record = {name: float(np.mean(as_array(values))) for name, values in metrics.items()}
        warnings += [f"step {step}: {warning}" for warning in watch(record)]
        if step % (steps // SNAPSHOTS) == 0:
            points = sample(contender.config, state, sample_key, labels)
            snapshots.append(np.asarray(points).reshape(-1, 2))
    return snapshots, warnings


def covered_and_good(samples: np.ndarray, mixture: Mixture) -> tuple[int, float]:
    """Return the number of modes covered, and the fraction of good samples."""
    distances = np.linalg.norm(samples[:, None] - mixture.modes[None], axis=2)
    good = distances.min(axis=1) < 3 * mixture.std
    counts = np.bincount(distances.argmin(axis=1)[good], minlength=len(mixture.modes))
    return int((counts >= 0.1 * len(samples) / len(mixture.modes)).sum()), float(good.mean())


def plot(snapshots: dict[str, list[np.ndarray]], steps: int, mixture: Mixture, path: Path) -> None:
    """Plot samples over time, with a row of scatter plots for each contender."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 * SNAPSHOTS, 2.2 * len(snapshots)), layout="constrained")
    axes = figure.subplots(len(snapshots), SNAPSHOTS, sharex=True, sharey=True, squeeze=False)
    for row, (name, series) in zip(axes, snapshots.items(), strict=True):
        row[0].set_ylabel(name)
        for i, (each, samples) in enumerate(zip(row, series, strict=True), start=1):
            each.scatter(*samples[:1000].T, s=1, color="tab:blue")
            each.scatter(*mixture.modes.T, s=12, facecolors="none", edgecolors="tab:red")
            each.set(xticks=[], yticks=[], xlim=(-1, 1), ylim=(-1, 1))
            each.set_title(f"step {i * steps // SNAPSHOTS:,}", fontsize=8)
    figure.savefig(path, dpi=90)


def main() -> None:
    """Train all, print the table, write the plots."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the plots")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each")
    parser.add_argument("--steps", type=int, default=9000, help="steps of the generator")
    parser.add_argument("--only", nargs="*", help="names of contenders")
    parser.add_argument("--latent", type=int, default=2, help="size of the noise")
    parser.add_argument("--hidden", type=int, default=128, help="units of each of 3 layers")
    arguments = parser.parse_args()
    if arguments.steps % (SNAPSHOTS * LOG_EVERY):
        parser.error(f"--steps {arguments.steps} should be a multiple of {SNAPSHOTS * LOG_EVERY}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    print("| data | model | modes covered, each seed | good samples, % | warned | s a run |")
    print("|---|---|---|---|---|---|")
    for mixture in MIXTURES:
        first = {}
        for contender in contenders(arguments.latent, (arguments.hidden,) * 3):
            if arguments.only and contender.name not in arguments.only:
                continue
            start = time.monotonic()
            runs = [
                train(contender, mixture, seed, arguments.steps) for seed in range(arguments.seeds)
            ]
            seconds = (time.monotonic() - start) / len(runs)
            first[contender.name] = runs[0][0]
            results = [covered_and_good(snapshots[-1], mixture) for snapshots, _ in runs]
            modes = " ".join(str(covered) for covered, _ in results)
            good = " ".join(f"{100 * share:.0f}" for _, share in results)
            said = {
                sign: sum(any(text in w for w in warnings) for _, warnings in runs)
                for sign, text in SIGNS.items()
            }
            warned = ", ".join(f"{sign} {count}" for sign, count in said.items() if count) or "none"
            cells = (mixture.name, contender.name, modes, good, warned, f"{seconds:.0f}")
            print("|", " | ".join(cells), "|", flush=True)
        name = mixture.name.replace(" ", "_").lower()
        plot(first, arguments.steps, mixture, arguments.output / f"{name}.png")


if __name__ == "__main__":
    main()
