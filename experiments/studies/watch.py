"""Does the watch of `genjax train` warn of sick trainings, and of no healthy one?

    python experiments/studies/watch.py --output watch

Trains each game on the digits of scikit-learn, shorter than its recipe does: five healthy runs with
seeds of their own, and five sick ones. Prints the table of experiments/README.md. A run that is
there already is read, not trained again, so that the table of other rules costs nothing.

A change does no harm to some games: such a run counts neither as sick nor as healthy. The Frechet
distance at the end from the training images tells, which of tiny data are other ones.
"""

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any

import genjax
from genjax import Recipe
from genjax.metrics.watch import Watch, few_images
from genjax.run.folder import RunFolder

HEALTHY = 5
TINY_DATA = "train[:2%]"  # 36 images
# A run is unharmed whose Frechet distance is less than so many times the worst healthy one.
UNHARMED = 1.25


def games() -> dict[str, Recipe]:
    """Return a healthy recipe of each game, by its name."""

    def short(name: str, steps: int, **model: Any) -> Recipe:
        recipe = genjax.load_recipe(name)
        players = {"gan": "discriminator", "dcgan": "discriminator"}
        changed = dict(model)
        for player in ("generator", players.get(recipe.family, "critic")):
            config = changed.get(player, getattr(recipe.model, player))
            if config.decay_steps:
                changed[player] = dataclasses.replace(config, decay_steps=steps)
        return dataclasses.replace(
            recipe,
            model=dataclasses.replace(recipe.model, **changed),
            steps=steps,
            save_interval=steps // 8,
            log_interval=steps // 80,
            quality="frechet_distance",
        )

    return {
        "gan": short("gan_digits_paper", 8000),
        "gan, relativistic": short("gan_digits", 8000),
        "dcgan": short("dcgan_digits_paper", 1600),
        "dcgan, relativistic": short("dcgan_digits", 1600),
        "wgan": short("wgan_digits", 8000),
        "wgan_gp": short("wgan_gp_digits", 3200),
    }


def sick(recipe: Recipe) -> dict[str, Recipe]:
    """Return what goes wrong with a game, by a name."""
    model: Any = recipe.model
    judge = "discriminator" if hasattr(model, "discriminator") else "critic"

    def change(**fields: Any) -> Recipe:
        return dataclasses.replace(recipe, model=dataclasses.replace(model, **fields))

    def faster(player: str, factor: float = 10) -> dict[str, Any]:
        config = getattr(model, player)
        rate = factor * config.learning_rate
        return {player: dataclasses.replace(config, learning_rate=rate)}

    tiny = {"hidden_sizes": (2,)} if recipe.family == "gan" else {"features": 1}
    name, loosened = f"{judge[0].upper()}'s rate x 10", faster(judge)
    if recipe.family == "wgan":
        name, loosened = "no penalty", {"weight_clip": 1e6}
    elif recipe.family == "wgan_gp":
        name, loosened = "no penalty", {"gradient_penalty_weight": 0.0}
    elif model.r1_gamma:
        name, loosened = "no penalty", {"r1_gamma": 0.0, "r2_gamma": 0.0}
    options = dataclasses.replace(recipe.data_options, split=TINY_DATA)
    return {
        "rates x 10": change(**faster("generator"), **faster(judge)),
        "G's rate x 10": change(**faster("generator")),
        name: change(**loosened),
        f"tiny {judge[0].upper()}": change(
            **{judge: dataclasses.replace(getattr(model, judge), **tiny)}
        ),
        "tiny data": dataclasses.replace(recipe, data_options=options),
    }


def run(recipe: Recipe, folder: Path) -> tuple[float, list[str]]:
    """Train, unless it was, and return the last Frechet distance and the names of alarms."""
    ended = folder / "ended"
    if not ended.exists():
        if folder.exists():
            raise SystemExit(f"{folder} is not finished: remove it")
        text = ""
        try:
            genjax.train(recipe, folder)
        except genjax.Diverged as error:
            text = str(error)
        ended.write_text(text)
    config = RunFolder(folder).read_config()
    alarms = [alarm.name for alarm in few_images(recipe.model, config.images)]
    watch, records = Watch(recipe.model, config.spec), list(genjax.history(folder))
    alarms += [f"{alarm.name} {r['step']}" for r in records for alarm in watch(r)]
    if ended.read_text():
        alarms.append("diverged")
    distances = [r["frechet_distance"] for r in records if "frechet_distance" in r]
    return math.inf if ended.read_text() else distances[-1], alarms


def main() -> None:
    """Train all, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--only", nargs="+", choices=list(games()), help="games")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    arguments = parser.parse_args()
    print("| game | run | Frechet distance | warned of |\n|---|---|---|---|")
    counts = {"healthy": [0, 0], "sick": [0, 0], "unharmed": [0, 0]}
    for game, recipe in games().items():
        if arguments.only and game not in arguments.only:
            continue
        recipe = dataclasses.replace(recipe, seed=arguments.seed)
        runs = {
            f"healthy, seed {seed}": dataclasses.replace(recipe, seed=seed)
            for seed in range(arguments.seed, arguments.seed + HEALTHY)
        }
        worst = 0.0
        for name, each in (runs | sick(recipe)).items():
            folder = arguments.output / f"{game}, {name}".replace(", ", "-").replace(" ", "_")
            distance, alarms = run(each, folder)
            kind = "healthy" if name in runs else "sick"
            if kind == "healthy":
                worst = max(worst, distance)
            elif name != "tiny data" and distance < UNHARMED * worst:
                kind = "unharmed"
            count = counts[kind]
            count[0] += 1
            count[1] += bool(alarms)
            text = f"{name} (unharmed)" if kind == "unharmed" else name
            print(f"| {game} | {text} | {distance:.1f} | {', '.join(alarms)} |", flush=True)
    for kind, (total, warned) in counts.items():
        print(f"\n{kind}: {warned} of {total} warned", end="")
    print()


if __name__ == "__main__":
    main()
