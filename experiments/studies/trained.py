"""Export runs as the trained models that come with genjax, and say how good they are.

    python experiments/studies/trained.py runs/gan_mnist runs/biggan_digits ...
    python experiments/studies/trained.py --again stylegan2_mnist ...

Each becomes `experiments/trained/NAME.safetensors`, with weights in float16, NAME.png, a grid of
its samples, and a row of the table in `experiments/trained/README.md`. The scores in its card are
those of the file itself, by `genjax evaluate`. On another machine the classifier is another one, so
there all models of a data set are to be evaluated again, to compare.
"""

import argparse
import dataclasses
import logging
from pathlib import Path

import genjax
from genjax.evaluation.compare import to_strings
from genjax.figures.output import save_images
from genjax.figures.sample import ROW, grid_labels
from genjax.run.model_file import Card, read_card, write_model
from genjax.run.shipped import trained_paths
from genjax.run.trained import load

OUTPUT = Path(__file__).parents[1] / "trained"
LICENSE = "Apache-2.0"
HEAD = """# Trained models

They come with genjax: `genjax sample trained:NAME`, or any other command that takes a run.
`genjax show trained:NAME` prints a card: the whole recipe, protocol, and versions. Weights are
float16, of the best checkpoint; scores are those of the files themselves, by
`genjax evaluate trained:NAME`. `genjax train NAME` trains them again, with the same seed, 0;
`python experiments/studies/trained.py RUNS` writes this folder.

"""


def build(run: Path) -> None:
    """Write the file of a run, its figure, and its scores."""
    path = OUTPUT / f"{run.name}.safetensors"
    genjax.export(run, path, dtype="float16", license=LICENSE)
    evaluate(path)
    trained = load(path)
    columns = ROW if grid_labels(trained.recipe, trained.spec)[1] else None
    save_images(genjax.sample(path), path.with_suffix(".png"), columns)


def evaluate(path: Path) -> None:
    """Write the scores of a file into it."""
    trained = load(path)
    assert trained.card is not None
    evaluation = genjax.evaluate(trained)
    options = dataclasses.replace(trained.recipe.data_options, data_dir=None)
    recipe = dataclasses.replace(trained.recipe, data_options=options)
    card = dataclasses.replace(trained.card, recipe=recipe, evaluation=evaluation)
    write_model(path, card, trained.state, "float16")


def table() -> str:
    """Return the table of all files, in Markdown."""
    head = "| | images | steps | minutes | scores | KB |\n|---|---|---|---|---|---|\n"
    return head + "".join(
        row(name, path, read_card(path)) for name, path in trained_paths().items()
    )


def row(name: str, path: Path, card: Card) -> str:
    """Return the row of a file."""
    assert card.evaluation is not None
    texts = to_strings(card.evaluation["metrics"])
    shown = ("frechet distance", "frechet distance floor", "precision", "recall", "nll")
    scores = ", ".join(f"{each} {texts[each]}" for each in shown if each in texts)
    size = path.stat().st_size / 1000
    return (
        f"| [{name}]({name}.png) | {card.recipe.data} | {card.step:,} | {card.minutes:g} | "
        f"{scores} | {size:,.0f} |\n"
    )


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument(
        "--again", nargs="+", default=[], choices=list(trained_paths()), help="files to evaluate"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    OUTPUT.mkdir(exist_ok=True)
    for run in args.runs:
        build(run)
    for name in args.again:
        evaluate(trained_paths()[name])
    (OUTPUT / "README.md").write_text(HEAD + table())


if __name__ == "__main__":
    main()
