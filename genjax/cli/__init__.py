"""`genjax ...`: thin; every command calls a function of the package.

A user's mistake ends with one line on standard error and exit code 2, a run that failed with
code 1, an interrupted one with 128 plus the number of the signal.
"""

import contextlib
import difflib
import io
import json
import logging
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro
from pydantic import ValidationError
from tqdm import tqdm
from tyro.conf import Positional

from genjax.data.processes import ProcessLost, is_first, is_joined, join
from genjax.data.sources import DataOptions
from genjax.evaluation.compare import compare, to_csv, to_html, to_text
from genjax.evaluation.evaluate import evaluate
from genjax.evaluation.extractor import ExtractorKind, cache_folder
from genjax.evaluation.tradeoff import VALUES, to_figure, tradeoff
from genjax.evaluation.tradeoff import to_csv as rows_to_csv
from genjax.figures.grid import as_text, in_pairs
from genjax.figures.inspect import inspect
from genjax.figures.latents import (
    PathKind,
    interpolate,
    manifold,
    manipulate,
    reconstruct,
    traverse,
)
from genjax.figures.sample import (
    check_output,
    sample,
    sample_grid,
    save_array,
    save_images,
    save_paths,
)
from genjax.figures.styles import Space, mix, project
from genjax.models import FAMILIES
from genjax.planning.compile import compile_step
from genjax.planning.compile import to_text as to_program_text
from genjax.run.checkpoint import SaveError, write_atomically
from genjax.run.recipe import (
    Flat,
    Recipe,
    describe,
    load_recipe,
    recipe_paths,
    recipe_summary,
    to_json,
)
from genjax.run.states import Checkpoint
from genjax.training.loop import Diverged, Result, resume, train
from genjax.types import UsageError

USAGE = """\
usage: genjax COMMAND ...

  genjax train RECIPE [options]   train from the beginning
  genjax resume RUN [options]     go on with a run that was stopped, or train it for longer
  genjax sample RUN [options]     images from a trained run
  genjax evaluate RUN [options]   how good its samples are, how likely the test images
  genjax compare RUN RUN ...      their evaluations side by side
  genjax tradeoff RUN             fidelity against diversity, over truncations of the latents
  genjax reconstruct RUN          images and what encoder and decoder make of them
  genjax interpolate RUN          paths between images in latent space
  genjax traverse RUN             what each latent does
  genjax manipulate RUN --to K    images moved towards a class
  genjax manifold RUN             the plane of two latents
  genjax mix RUN                  images of two styles: coarse, middle and fine
  genjax project RUN              images and the nearest that styles give
  genjax list                     the recipes and the families
  genjax show RECIPE [options]    a recipe with every default spelled out
  genjax compile RECIPE [options] what a step needs, here or on a TPU slice that is not there
  genjax profile RECIPE [options] where the time of a step goes, and what bounds it
  genjax bench losses|steps|startup   how fast they are here, and beside PyTorch
  genjax inspect DATA [options]   what a data set holds, and what is broken in it

RECIPE is a name from `genjax list`, or the path of a .py file of yours.
`genjax COMMAND --help` says more."""

# The recipe whose options `genjax train --help` shows.
EXAMPLE = "gan_digits"

RECONSTRUCTIONS_IN_A_ROW = 16

# What a command's options give: the work, to be called once they have been accepted.
Work = Callable[[], int]


def main() -> None:
    """The entry point."""
    _set_up()
    try:
        sys.exit(run(sys.argv[1:]))
    except (UsageError, ValidationError) as error:
        _fail(describe(error), 2)
    except (Diverged, SaveError, ProcessLost) as error:
        _fail(str(error), 1)
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    except KeyboardInterrupt:
        _fail("stopped", 130)


def run(arguments: list[str]) -> int:
    """Run a command line; give its exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    command, *rest = arguments
    if command in RECIPE_COMMANDS:
        return _run_recipe_command(command, rest)
    if command == "bench":
        if not rest or rest[0] not in BENCHMARKS:
            given = repr(rest[0]) if rest else "nothing"
            raise UsageError(f"bench {given}: wanted {', '.join(BENCHMARKS)}")
        kind, *rest = rest
        return _parse(BENCHMARKS[kind], f"bench {kind}", rest)()
    if command not in COMMANDS:
        commands = ", ".join([*RECIPE_COMMANDS, *COMMANDS, "bench"])
        raise UsageError(f"no command {command!r}: wanted {commands}")
    return _parse(COMMANDS[command], command, rest)()


def _run_recipe_command(command: str, arguments: list[str]) -> int:
    """Those whose recipe comes first, for it decides which options there are."""
    wants_help = bool(arguments) and arguments[0] in ("-h", "--help")
    if not wants_help and (not arguments or arguments[0].startswith("-")):
        raise UsageError(f"the recipe comes first: genjax {command} RECIPE [options]")
    name, *rest = [EXAMPLE, *arguments] if wants_help else arguments
    default = load_recipe(name)
    if wants_help:
        print(f"genjax {command} RECIPE [options]: the options of {name}, for example\n")

    def train_command(recipe: Annotated[Recipe, Flat] = default, run: str | None = None) -> Work:
        """Train from the beginning. Ctrl-C saves; `genjax resume` goes on.

        Args:
            recipe: The recipe.
            run: The run folder, new. None: the first free one of runs/FAMILY_DATA, ...-2, ...
        """
        return _training(lambda: train(recipe, run))

    def show_command(recipe: Annotated[Recipe, Flat] = default) -> Work:
        """Print a recipe as JSON, every default spelled out and the options applied.

        Args:
            recipe: The recipe.
        """
        return lambda: _print(json.dumps(to_json(recipe), indent=2))

    def compile_command(
        recipe: Annotated[Recipe, Flat] = default, topology: str | None = None
    ) -> Work:
        """Compile the train step, and say what memory and time it will take.

        Args:
            recipe: The recipe.
            topology: A TPU slice, CHIP:AxB or CHIP:AxBxC such as v5e:16x16, which need not be
                there. None: the devices of this machine.
        """

        def work() -> int:
            if topology is not None:  # to compile for TPUs, not to look for some
                jax.config.update("jax_platforms", "cpu")
            return _print(to_program_text(recipe, compile_step(recipe, topology)))

        return work

    def profile_command(
        recipe: Annotated[Recipe, Flat] = default,
        output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
        top: int = 20,
    ) -> Work:
        """Run steps under jax's profiler, and list the operations that take longest.

        Args:
            recipe: The recipe; of its data only the shape matters.
            output: Where the trace goes, a new folder that TensorBoard and Perfetto read. None: no
                trace is kept.
            top: How many operations.
        """

        def work() -> int:
            from genjax.bench.profile import profile, to_text

            with contextlib.ExitStack() as stack:
                folder = output
                if folder is None:
                    folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "trace"
                return _print(to_text(profile(recipe, folder), top, kept=output is not None))

        return work

    commands = {
        "train": train_command,
        "show": show_command,
        "compile": compile_command,
        "profile": profile_command,
    }
    return _parse(commands[command], f"{command} {name}", rest)()


def resume_command(run: Positional[str], steps: int | None = None) -> Work:
    """Go on with a run from its last good checkpoint, as if it had never stopped.

    Args:
        run: The run folder.
        steps: Step at which it ends. None: as the recipe says.
    """
    return _training(lambda: resume(run, steps))


def sample_command(
    run: Positional[str],
    n: Annotated[int | None, tyro.conf.arg(aliases=["-n"])] = None,
    seed: int = 0,
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("samples.png"),
    checkpoint: Checkpoint = "best",
    temperature: float | None = None,
    truncation: float | None = None,
    truncation_cutoff: int | None = None,
    label: int | None = None,
) -> Work:
    """Images from a trained run.

    Args:
        run: The run folder.
        n: How many. None: 64, or of a conditional model a row for each class.
        seed: Of the latents; the first images of a seed are the same for any n.
        output: A .png for a grid, or a .npy for the array, uint8 [n, H, W, C].
        checkpoint: The best by the run's quality metric, the latest, or that of a step.
        temperature: glow: standard deviation of the latents; below 1 for cleaner, less varied
            images. None: 1.
        truncation: biggan: values of the noise further from 0 are drawn again; 0.5 for cleaner,
            less varied images. None: they are kept. stylegan, stylegan2: psi, how far styles are
            from their mean; 0.7 for cleaner, less varied images. None: 1.
        truncation_cutoff: stylegan, stylegan2: how many layers that is of, from the coarsest.
            None: all.
        label: conditional models: the class. None: all in turn.
    """
    return _figure(
        output,
        lambda: sample_grid(
            *(run, n, seed, checkpoint, temperature, truncation, truncation_cutoff, label)
        ),
    )


def evaluate_command(
    run: Positional[str],
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 10_000,
    samples: int | None = None,
    seed: int = 0,
    checkpoint: Checkpoint = "best",
    temperature: float | None = None,
    truncation: float | None = None,
    truncation_cutoff: int | None = None,
    extractor: ExtractorKind | None = None,
    weights: Path | None = None,
) -> Work:
    """How good samples are, and how likely the test images; adds to evaluations.jsonl.

    Args:
        run: The run folder.
        n: Samples that are compared with images of the test split.
        samples: Importance samples for the likelihood of each image: of the latents (vae), or of
            the noise within gray levels (glow). None: as is usual, 5000 and 1.
        seed: Of all draws.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.
        temperature: Of the samples; see `genjax sample`.
        truncation: Likewise.
        truncation_cutoff: Likewise.
        extractor: The feature net: a classifier of the data set, trained when it is first asked
            for, or Inception, by which FID is defined. None: a classifier, if the data have
            classes.
        weights: inception: a .pth or .safetensors of its weights. None: the published file in the
            cache folder.
    """

    def work() -> int:
        result = evaluate(
            *(run, n, samples, seed, checkpoint, temperature, truncation, truncation_cutoff),
            *(extractor, weights),
        )
        return _print(json.dumps(result, indent=2))

    return work


def compare_command(
    runs: Positional[tuple[str, ...]],
    csv: Path | None = None,
    html: Path | None = None,
) -> Work:
    """Runs of any family side by side, by their latest evaluations, of one protocol.

    Args:
        runs: The run folders, each evaluated.
        csv: Write the table there, a line for each run.
        html: Write a page there with the table, and each run's samples, paths in latent space,
            nearest training images, and curves.
    """

    def work() -> int:
        comparison = compare(runs)
        if csv is not None:
            write_atomically(csv, to_csv(comparison).encode())
        if html is not None:
            write_atomically(html, to_html(comparison, runs).encode())
        return _print(to_text(comparison))

    return work


def tradeoff_command(
    run: Positional[str],
    values: tuple[float, ...] = VALUES,
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 2000,
    seed: int = 0,
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("tradeoff.png"),
    checkpoint: Checkpoint = "best",
    extractor: ExtractorKind = "classifier",
    weights: Path | None = None,
) -> Work:
    """Fidelity against diversity over truncations (biggan) or temperatures (glow): a PNG, a CSV.

    Args:
        run: The run folder.
        values: Truncations or temperatures.
        n: Samples for each, and test images.
        seed: Of the latents.
        output: A .png for the curves; the numbers go beside it, in a .csv.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.
        extractor: The feature net; see `genjax evaluate`.
        weights: Of Inception.
    """

    def work() -> int:
        if output.suffix != ".png":
            raise UsageError(f"output {output}: should end in .png")
        check_output(output)
        rows = tradeoff(run, values, n, seed, checkpoint, extractor, weights)
        write_atomically(output, to_figure(rows))
        write_atomically(output.with_suffix(".csv"), rows_to_csv(rows).encode())
        return _print(f"{output}\n{output.with_suffix('.csv')}")

    return work


def reconstruct_command(
    run: Positional[str],
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 32,
    seed: int = 0,
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("reconstructions.png"),
    checkpoint: Checkpoint = "best",
) -> Work:
    """Images of the test split, and below each what the model makes of it.

    Args:
        run: The run folder, of a model with an encoder.
        n: How many.
        seed: Which images.
        output: A .png for a grid, or a .npy for the array.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.
    """
    columns = max(1, min(n, RECONSTRUCTIONS_IN_A_ROW))
    return _figure(
        output, lambda: (in_pairs(*reconstruct(run, n, seed, checkpoint), columns), columns)
    )


def interpolate_command(
    run: Positional[str],
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 8,
    steps: int = 10,
    path: PathKind = "spherical",
    seed: int = 0,
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("interpolations.png"),
    checkpoint: Checkpoint = "best",
) -> Work:
    """Paths in latent space: between test images, or between draws where there is no encoder.

    Args:
        run: The run folder.
        n: Paths, a row each.
        steps: Images on each path.
        path: Along the sphere of the latents, or straight, or straight between styles.
        seed: Of the ends.
        output: A .png for a grid, a .gif for a video, or a .npy for the array.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.
    """

    def work() -> int:
        check_output(output, video=True)
        save_paths(interpolate(run, n, steps, path, seed, checkpoint), output)
        return _print(str(output))

    return work


def mix_command(
    run: Positional[str],
    rows: int = 3,
    columns: int = 6,
    seed: int = 0,
    truncation: float | None = None,
    cuts: tuple[int, int] | None = None,
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("mixed.png"),
    checkpoint: Checkpoint = "best",
) -> Work:
    """Images on the left with the coarse, then middle, then fine styles of those on top.

    Args:
        run: The run folder, of a model with styles.
        rows: For each of the three.
        columns: Images on top.
        seed: Of the styles.
        truncation: Of the styles; see `genjax sample`.
        cuts: The first layers that are middle and fine. None: thirds of the layers.
        output: A .png for a grid, or a .npy for the array.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.
    """
    return _figure(
        output, lambda: _rows(mix(run, rows, columns, seed, truncation, cuts, checkpoint))
    )


def project_command(
    run: Positional[str],
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 8,
    images: tuple[Path, ...] = (),
    space: Space = "w",
    steps: int = 500,
    seed: int = 0,
    styles: Path | None = None,
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("projections.png"),
    checkpoint: Checkpoint = "best",
) -> Work:
    """Images, and below each the nearest that a style gives.

    Args:
        run: The run folder, of a model with styles.
        n: How many images of the test split.
        images: Image files to take instead.
        space: One style for all layers, or each layer its own.
        steps: Of the search.
        seed: Which images, and of the search.
        styles: Write the styles there, a .npy, float32 [n, layers, size].
        output: A .png for a grid, or a .npy for the array.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.
    """
    if styles is not None and styles.suffix != ".npy":
        raise UsageError(f"styles {styles}: should end in .npy")

    def make() -> tuple[np.ndarray, int]:
        given, found, values = project(run, n, images, space, steps, seed, checkpoint)
        if styles is not None:
            save_array(values, styles)
        columns = min(len(given), RECONSTRUCTIONS_IN_A_ROW)
        return in_pairs(given, found, columns), columns

    return _figure(output, make)


def traverse_command(
    run: Positional[str],
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 10,
    steps: int = 11,
    extent: float = 3.0,
    seed: int = 0,
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("traversals.png"),
    checkpoint: Checkpoint = "best",
) -> Work:
    """A test image as its latents change one at a time, a row each, the most active first.

    Args:
        run: The run folder, of a model with an encoder.
        n: Latents.
        steps: Values of each.
        extent: From minus this to this.
        seed: Which image.
        output: A .png for a grid, or a .npy for the array.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.
    """
    return _figure(output, lambda: _rows(traverse(run, n, steps, extent, seed, checkpoint)))


def manipulate_command(
    run: Positional[str],
    to: int,
    source: Annotated[int | None, tyro.conf.arg(name="from")] = None,
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 8,
    steps: int = 9,
    extent: float = 1.5,
    seed: int = 0,
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("manipulations.png"),
    checkpoint: Checkpoint = "best",
) -> Work:
    """Test images moved in latent space towards a class: along the difference of the means.

    Args:
        run: The run folder, of a model with an encoder, trained on data with classes.
        to: The class to move to.
        source: The class to move from. None: the direction is away from all other classes.
        n: Images, a row each; with --from, of that class.
        steps: Images in a row.
        extent: From minus this to this, in differences of the means.
        seed: Which images.
        output: A .png for a grid, or a .npy for the array.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.
    """
    return _figure(
        output,
        lambda: _rows(manipulate(run, to, source, n, steps, extent, seed, checkpoint)),
    )


def manifold_command(
    run: Positional[str],
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 20,
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("manifold.png"),
    checkpoint: Checkpoint = "best",
) -> Work:
    """Images over the plane of the two latents of a model, at the quantiles of the prior.

    Args:
        run: The run folder, of a model with two latents.
        n: Values of each.
        output: A .png for a grid, or a .npy for the array.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.
    """
    return _figure(output, lambda: _rows(manifold(run, n, checkpoint)))


def _rows(images: np.ndarray) -> tuple[np.ndarray, int]:
    """[rows, columns, H, W, C] as a list of images, and the columns."""
    return images.reshape(-1, *images.shape[2:]), images.shape[1]


def _figure(output: Path, make: Callable[[], tuple[np.ndarray, int | None]]) -> Work:
    """Save what `make` gives: images, and the columns of their grid."""

    def work() -> int:
        check_output(output)
        images, columns = make()
        save_images(images, output, columns)
        return _print(str(output))

    return work


def list_command() -> Work:
    """The recipes that come with genjax, and the families."""
    recipes = [f"  {name:16} {recipe_summary(path)}" for name, path in recipe_paths().items()]
    families = [f"  {name:16} {family.paper}" for name, family in FAMILIES.items()]
    return lambda: _print("\n".join(["recipes", *recipes, "families", *families]))


def inspect_command(
    data: Positional[str],
    options: Annotated[DataOptions, Flat] = DataOptions(),  # noqa: B008 - frozen
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("inspect.png"),
) -> Work:
    """What a data set holds: count, sizes, channels, classes, broken files, and a grid.

    Args:
        data: digits, tfds:NAME, folder:PATH, or the path of a .zip.
        options: How it is read.
        output: The grid of its first images, a .png.
    """
    return lambda: _print(inspect(data, options, output))


# Benchmarks are imported when they are asked for: nothing else should wait for them.


def bench_losses_command(
    functions: Positional[tuple[str, ...]] = (),
    batch_sizes: tuple[int, ...] = (64, 1024),
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16"),
    rounds: int = 15,
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    against: Path | None = None,
) -> Work:
    """Every function of genjax.objectives, and its gradient: compiled and eager.

    Args:
        functions: Names. None: all.
        batch_sizes: Examples in a call.
        dtypes: Of all arrays.
        rounds: Samples of each; the table has medians, and the spread of the middle half.
        output: A .json for all that was measured; the rows go beside it, in a .csv.
        against: An earlier output to compare with.
    """

    def work() -> int:
        from genjax.bench import losses

        return _bench(
            "losses",
            lambda: losses.bench_losses(batch_sizes, dtypes, functions, rounds),
            lambda found: losses.columns(found.limits),
            output,
            against,
        )

    return work


def bench_steps_command(
    recipes: Positional[tuple[str, ...]] = (),
    torch: tuple[Literal["eager", "compiled"], ...] = (),
    dtype: Literal["float32", "bfloat16"] | None = None,
    batch_size: int | None = None,
    devices: tuple[int, ...] = (1,),
    rounds: int = 5,
    loop: bool = True,
    data_dir: str | None = None,
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    against: Path | None = None,
) -> Work:
    """Whole training steps of recipes, compiled, with all metrics, and the loop around them.

    Args:
        recipes: Names. None: one of each family, for a small machine.
        torch: Run PyTorch beside them in turn, eager, by torch.compile, or both.
        dtype: Compute type. None: the recipe's.
        batch_size: Images a step. None: the recipe's.
        devices: On how many, a row for each; on a CPU they are simulated.
        rounds: Samples of each; the table has medians, the least and the most.
        loop: Also measure `genjax train`, on the recipe's own data.
        data_dir: Where tfds data lie.
        output: A .json for all that was measured; the rows go beside it, in a .csv.
        against: An earlier output to compare with.
    """

    def work() -> int:
        from genjax.bench import steps

        options = steps.Options(rounds, torch, dtype, batch_size, loop=loop, data_dir=data_dir)
        return _bench(
            "steps",
            lambda: steps.bench_steps(recipes or steps.RECIPES, options, devices),
            lambda found: steps.columns(found.limits),
            output,
            against,
        )

    return work


def bench_startup_command(
    recipes: Positional[tuple[str, ...]] = (),
    rounds: int = 3,
    data_dir: str | None = None,
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    against: Path | None = None,
) -> Work:
    """From the command to the first step: cold, and with the programs compiled before.

    Args:
        recipes: Names. None: the smallest and the largest for a small machine.
        rounds: Samples of each.
        data_dir: Where tfds data lie.
        output: A .json for all that was measured; the rows go beside it, in a .csv.
        against: An earlier output to compare with.
    """

    def work() -> int:
        from genjax.bench import startup

        return _bench(
            "startup",
            lambda: startup.bench_startup(recipes or startup.RECIPES, rounds, data_dir),
            lambda found: startup.columns(),
            output,
            against,
        )

    return work


def _bench(
    kind: str,
    measure: Callable[[], Any],
    columns: Callable[[Any], Any],
    output: Path | None,
    earlier: Path | None,
) -> int:
    """Measure, print the table, and save or compare what was found."""
    from genjax.bench import results

    results.check_output(output)
    old = results.load(earlier, kind) if earlier is not None else None
    found = measure()
    print(results.table(found.rows, columns(found)))
    print(f"\n{results.machine_line(found)}")
    for line in results.notes(found.rows):
        print(line)
    if output is not None:
        results.save(found, output)
        print(f"{output}\n{output.with_suffix('.csv')}")
    if old is not None:
        print(f"\nagainst {earlier}:")
        print("\n".join(results.against(found, old)))
    return 0


RECIPE_COMMANDS = ("train", "show", "compile", "profile")
BENCHMARKS: dict[str, Callable[..., Work]] = {
    "losses": bench_losses_command,
    "steps": bench_steps_command,
    "startup": bench_startup_command,
}
COMMANDS: dict[str, Callable[..., Work]] = {
    "resume": resume_command,
    "sample": sample_command,
    "evaluate": evaluate_command,
    "compare": compare_command,
    "tradeoff": tradeoff_command,
    "reconstruct": reconstruct_command,
    "interpolate": interpolate_command,
    "traverse": traverse_command,
    "manipulate": manipulate_command,
    "manifold": manifold_command,
    "mix": mix_command,
    "project": project_command,
    "list": list_command,
    "inspect": inspect_command,
}


def _parse(function: Callable[..., Work], name: str, arguments: list[str]) -> Work:
    """Call `function` with its arguments from a command line.

    Raises:
        UsageError: They do not fit; tyro's message, without its frame and on one line.
    """
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(function, prog=f"genjax {name}", args=arguments)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(_one_line(errors.getvalue(), stop)) from None


def _one_line(framed: str, stop: BaseException) -> str:
    # A box with the title in its edge, or in plain ASCII rules with the title above the first.
    is_box = framed.startswith("╭")
    framed = re.sub(r"^[│|]|[│|]$", "", framed, flags=re.MULTILINE)
    sections = re.split(r"^.*(?:───|---).*$", framed, flags=re.MULTILINE)
    sections = [text for text in (" ".join(section.split()) for section in sections) if text]
    message, *others = sections if is_box else sections[1:]
    cause: BaseException | None = stop
    while cause and not isinstance(cause, ValidationError):
        cause = cause.__context__
    if isinstance(cause, ValidationError):  # our own check, within what tyro built
        place = re.match(r"Error parsing recipe\.model\.(\S+):", message)
        return (f"{place[1]}." if place else "") + describe(cause)
    given = re.search(r"--[\w.-]+", message)
    hints = [other for other in others if "Perhaps you meant" in other or "similar to" in other]
    suggestions = re.findall(r"--[\w.-]+", " ".join(hints))
    if given and suggestions:
        closest = difflib.get_close_matches(given[0], suggestions, n=1, cutoff=0)
        return f"{message}; perhaps you meant {closest[0]}"
    return message


def _training(train: Callable[[], Result]) -> Work:
    """Train beside the other processes that there may be, of which the first speaks for all."""

    def work() -> int:
        join()
        if not is_first():
            logging.getLogger("genjax").handlers[0].setLevel(logging.ERROR)
        return _say_end(train())

    return work


def _print(text: str) -> int:
    print(text, flush=True)
    return 0


def _say_end(result: Result) -> int:
    """How the training ended, and what to do next."""
    if result.signal is not None:
        if is_first():
            print(f"stopped and saved at step {result.step}; to go on: genjax resume {result.run}")
        return 128 + result.signal
    picture = as_text(sample(result.run, 16))
    if not is_first():
        return 0
    print(picture)
    print(f"above    a few samples of the best checkpoint of {result.step} steps")
    print(f"samples  {max((result.run / 'samples').glob('*.png'))}")
    print(f"curves   {result.run / 'curves.png'}")
    print(f"more     genjax sample {result.run} -n 64 --seed 1 -o grid.png")
    return 0


class _Console(logging.Handler):
    """Log lines on standard error, above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        mark = "warning: " if record.levelno >= logging.WARNING else ""
        tqdm.write(mark + record.getMessage(), file=sys.stderr)


def _set_up() -> None:
    log = logging.getLogger("genjax")
    log.setLevel(logging.INFO)
    log.addHandler(_Console())
    log.propagate = False
    # Others report on their own workings; what matters is raised as an error.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))


def _fail(message: str, code: int) -> None:
    print(f"genjax: error: {message}", file=sys.stderr, flush=True)
    if is_joined():  # the others are told by our end, which must not wait for them
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
