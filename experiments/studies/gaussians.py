"""Which loss finds every mode? GANs on mixtures of 8 and of 25 Gaussians.

    python experiments/studies/gaussians.py --output gaussians

A point is an image of 1x2 pixels, so the families train here as they do on images, with the same
MLPs for all: 3 hidden layers for each player. The seeds of a model train side by side, in one
program. Prints the table of experiments/README.md, and writes the samples over time of the first
two seeds as a PNG for each mixture.

A sample is good within 3 standard deviations of a mode (98.9% of the data are), and a mode is
covered when at least a tenth of its fair share of the samples is good there.
"""

import argparse
import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax.metrics.watch import RULES, Watch
from genjax.models import gan, wgan
from genjax.run.sharding import as_array
from genjax.types import Family, ImageSpec, Metrics, State

SPEC = ImageSpec(1, 2, 1)
BATCH = 128
LOG_EVERY, SNAPSHOTS, SAMPLES = 100, 6, 5000


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Equal Gaussians at `modes`, [K, 2], inside [-1, 1]."""

    name: str
    modes: np.ndarray
    std: float


RING = np.arange(8) * np.pi / 4
GRID = np.linspace(-0.8, 0.8, 5)
MIXTURES = (
    Mixture("8 Gaussians", 0.8 * np.stack([np.cos(RING), np.sin(RING)], axis=1), 0.02),
    Mixture("25 Gaussians", np.stack(np.meshgrid(GRID, GRID), axis=-1).reshape(-1, 2), 0.02),
)


@dataclasses.dataclass(frozen=True)
class Contender:
    """A family and its config."""

    name: str
    family: Family
    config: Any

    @property
    def steps_a_turn(self) -> int:
        """Return the steps of the discriminator for each of the generator."""
        return getattr(self.config, "n_critic", 1)

    def step(self, state: State, real: jax.Array, key: jax.Array) -> tuple[State, Metrics]:
        """Take a step of each player on real points, [B, 1, 2, 1], without labels."""
        if self.family is not gan.FAMILY:
            return wgan.update_players(self.config, state, real, None, key)
        z = jax.random.normal(key, (len(real), self.config.latent_size))
        return gan.update_players(self.config, state, real, z, jax.random.fold_in(key, 0))


def contenders(latent_size: int, hidden_sizes: tuple[int, ...], steps: int) -> list[Contender]:
    """List the models to compare, with the same MLPs, the first of them with their papers' Adam.

    The WGANs learn a few times faster than at the papers' rates, which are for runs of a hundred
    thousand steps. They are scaled to this kind of data: a weaker gradient penalty, as the authors
    of WGAN-GP use on their mixtures, and a wider clip. Ten times the learning rate of GAN's
    discriminator is where the watch of `genjax train` should warn. The last four tell what makes
    the difference: they have the loss of GAN or the relativistic one, with and without R1 and R2,
    and all of them a moving average, and rates that begin high and fall to 0 on a line.
    """

    def plain(rate: float = 1.0, **fields: Any) -> gan.GanConfig:
        player = gan.PlayerConfig(hidden_sizes=hidden_sizes)
        strong = dataclasses.replace(player, learning_rate=rate * player.learning_rate)
        return gan.GanConfig(
            latent_size=latent_size, generator=player, discriminator=strong, **fields
        )

    def critic(player: wgan.PlayerConfig, rate: float) -> wgan.PlayerConfig:
        return dataclasses.replace(player, hidden_sizes=hidden_sizes, learning_rate=rate)

    clipped, penalized = critic(wgan.WGAN_PLAYER, 2e-4), critic(wgan.WGAN_GP_PLAYER, 5e-4)
    network: Any = {"network": "mlp", "latent_size": latent_size}

    def falling(loss: Any, gamma: float) -> gan.GanConfig:
        player = gan.PlayerConfig(
            hidden_sizes=hidden_sizes,
            learning_rate=3e-3,
            beta1=0.0,
            beta2=0.99,
            schedule="linear",
            decay_steps=steps,
        )
        return gan.GanConfig(
            latent_size=latent_size,
            loss=loss,
            r1_gamma=gamma,
            r2_gamma=gamma,
            ema_decay=0.999,
            generator=player,
            discriminator=player,
        )

    return [
        Contender("GAN", gan.FAMILY, plain()),
        Contender("LSGAN", gan.FAMILY, plain(loss="least_squares")),
        Contender("hinge", gan.FAMILY, plain(loss="hinge")),
        Contender("DRAGAN", gan.FAMILY, plain(dragan_weight=10.0)),
        Contender(
            "WGAN",
            wgan.WGAN,
            wgan.WganConfig(weight_clip=0.05, generator=clipped, critic=clipped, **network),
        ),
        Contender(
            "WGAN-GP",
            wgan.WGAN_GP,
            wgan.WganGpConfig(
                gradient_penalty_weight=0.1, generator=penalized, critic=penalized, **network
            ),
        ),
        Contender("GAN, D's rate x 10", gan.FAMILY, plain(rate=10.0)),
        Contender("GAN, falling rates", gan.FAMILY, falling("non_saturating", 0)),
        Contender("GAN, falling rates, R1, R2", gan.FAMILY, falling("non_saturating", 0.01)),
        Contender("relativistic, falling rates", gan.FAMILY, falling("relativistic", 0)),
        Contender("relativistic, falling rates, R1, R2", gan.FAMILY, falling("relativistic", 0.01)),
    ]


def train(
    contender: Contender, mixture: Mixture, seeds: int, steps: int
) -> tuple[np.ndarray, list[list[str]]]:
    """Train with each seed.

    Returns:
        Samples, [SNAPSHOTS, seeds, SAMPLES, 2], and for each seed the names of the alarms.
    """
    modes = jnp.asarray(mixture.modes, jnp.float32)
    each = jax.vmap(lambda key: jax.random.split(key, 3))
    init_keys, step_keys, sample_keys = each(jax.vmap(jax.random.key)(jnp.arange(seeds))).T
    labels = jnp.zeros(SAMPLES, jnp.int32)
    # All are at one step, so that what is due at some steps is computed at those alone.
    states = jax.vmap(lambda key: contender.family.init(contender.config, key, SPEC))(init_keys)
    states = dataclasses.replace(states, step=states.step[0])
    axes = dataclasses.replace(jax.tree.map(lambda _: 0, states), step=None)

    def one(state: State, key: jax.Array) -> tuple[State, Metrics]:
        keys = jax.random.split(jax.random.fold_in(key, state.step), 3)
        centres = modes[jax.random.randint(keys[0], (BATCH,), 0, len(modes))]
        points = centres + mixture.std * jax.random.normal(keys[1], (BATCH, 2))
        return contender.step(state, points.reshape(-1, 1, 2, 1), keys[2])

    @functools.partial(jax.jit, donate_argnums=0)
    def run(states: State) -> tuple[State, Metrics]:
        step = jax.vmap(one, in_axes=(axes, 0), out_axes=(axes, 0))
        return jax.lax.scan(lambda s, _: step(s, step_keys), states, None, length=LOG_EVERY)

    @jax.jit
    def sample(states: State) -> jax.Array:
        def draw(state: State, key: jax.Array) -> jax.Array:
            return contender.family.sample(contender.config, state, key, labels)

        return jax.vmap(draw, in_axes=(axes, 0))(states, sample_keys)

    steps *= contender.steps_a_turn
    watches = [Watch(contender.config, SPEC) for _ in range(seeds)]
    warnings: list[list[str]] = [[] for _ in range(seeds)]
    snapshots = []
    for step in range(LOG_EVERY, steps + 1, LOG_EVERY):
        states, metrics = run(states)
        means = {name: np.mean(as_array(values), axis=0) for name, values in metrics.items()}
        for i, (watch, said) in enumerate(zip(watches, warnings, strict=True)):
            alarms = watch({name: float(values[i]) for name, values in means.items()})
            said += [alarm.name for alarm in alarms]
        if step % (steps // SNAPSHOTS) == 0:
            snapshots.append(np.asarray(sample(states)).reshape(seeds, SAMPLES, 2))
    return np.stack(snapshots), warnings


def covered_and_good(samples: np.ndarray, mixture: Mixture) -> tuple[int, float]:
    """Return the number of modes covered, and the fraction of good samples."""
    distances = np.linalg.norm(samples[:, None] - mixture.modes[None], axis=2)
    good = distances.min(axis=1) < 3 * mixture.std
    counts = np.bincount(distances.argmin(axis=1)[good], minlength=len(mixture.modes))
    return int((counts >= 0.1 * len(samples) / len(mixture.modes)).sum()), float(good.mean())


def plot(snapshots: dict[str, np.ndarray], steps: int, mixture: Mixture, path: Path) -> None:
    """Plot samples [SNAPSHOTS, SAMPLES, 2] over time, with a row of scatter plots for each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 * SNAPSHOTS, 2.2 * len(snapshots)), layout="constrained")
    axes = figure.subplots(len(snapshots), SNAPSHOTS, sharex=True, sharey=True, squeeze=False)
    for row, (name, series) in zip(axes, snapshots.items(), strict=True):
        row[0].set_ylabel(name, fontsize=6)
        for i, (each, samples) in enumerate(zip(row, series, strict=True), start=1):
            each.scatter(*samples[:1000].T, s=1, color="tab:blue")
            each.scatter(*mixture.modes.T, s=12, facecolors="none", edgecolors="tab:red")
            each.set(xticks=[], yticks=[], xlim=(-1, 1), ylim=(-1, 1))
            each.set_title(f"step {i * steps // SNAPSHOTS:,}", fontsize=8)
    figure.savefig(path, dpi=90)


def row(contender: Contender, mixture: Mixture, found: np.ndarray, warned: list[list[str]]) -> str:
    """Return a row of the table, of the last samples of each seed, [seeds, SAMPLES, 2]."""
    results = [covered_and_good(samples, mixture) for samples in found]
    modes = " ".join(str(covered) for covered, _ in results)
    good = " ".join(f"{100 * share:.0f}" for _, share in results)
    said = {rule.name: sum(rule.name in each for each in warned) for rule in RULES}
    counts = ", ".join(f"{sign} {count}" for sign, count in said.items() if count) or "none"
    return f"| {mixture.name} | {contender.name} | {modes} | {good} | {counts} |"


def main() -> None:
    """Train all, print the table, write the plots."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the plots")
    parser.add_argument("--seeds", type=int, default=10, help="runs of each")
    parser.add_argument(
        "--steps",
        type=int,
        default=9000,
        help=f"steps of the generator, a multiple of {SNAPSHOTS * LOG_EVERY}",
    )
    parser.add_argument("--only", nargs="+", help="names of contenders")
    parser.add_argument("--latent", type=int, default=2, help="size of the noise")
    parser.add_argument("--hidden", type=int, default=128, help="units of each of 3 layers")
    arguments = parser.parse_args()
    steps = arguments.steps
    if steps < 1 or steps % (SNAPSHOTS * LOG_EVERY):
        parser.error(f"--steps {steps} should be a multiple of {SNAPSHOTS * LOG_EVERY}")
    every = contenders(arguments.latent, (arguments.hidden,) * 3, steps)
    names = [each.name for each in every]
    for name in arguments.only or ():
        if name not in names:
            parser.error(f"--only {name!r}: should be of {', '.join(map(repr, names))}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    print("| data | model | modes covered, each seed | good samples, % | warned | s |")
    print("|---|---|---|---|---|---|")
    for mixture in MIXTURES:
        plotted = {}
        for contender in every:
            if arguments.only and contender.name not in arguments.only:
                continue
            start = time.monotonic()
            snapshots, warned = train(contender, mixture, arguments.seeds, steps)
            for seed in range(min(2, arguments.seeds)):
                plotted[f"{contender.name}\nseed {seed}"] = snapshots[:, seed]
            line = row(contender, mixture, snapshots[-1], warned)
            print(line, f"{time.monotonic() - start:.0f} |", flush=True)
        name = mixture.name.replace(" ", "_").lower()
        plot(plotted, steps, mixture, arguments.output / f"{name}.png")


if __name__ == "__main__":
    main()
