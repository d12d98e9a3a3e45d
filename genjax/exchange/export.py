"""Export of trained models to files of their own."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from etils import epath

from genjax.data.paths import is_remote
from genjax.evaluation.compare import latest_evaluation, trained_for
from genjax.exchange import program
from genjax.figures.sample import sample_options
from genjax.run.checkpoint import write_atomically
from genjax.run.model_file import SUFFIX, Card, is_model_file, output_path, read_arrays, write_model
from genjax.run.options import Output, check_choice
from genjax.run.recipe import to_json
from genjax.run.records import read_lines
from genjax.run.trained import Checkpoint, Model, Trained, load
from genjax.samplers import Sampler
from genjax.steps.state import named_leaves
from genjax.types import UsageError

# The path of a model file, as a positional argument.
File = Annotated[str | Path, tyro.conf.Positional, tyro.conf.arg(constructor=str)]


def export(
    run: Model,
    output: Annotated[str | Path, Output] = Path("model.safetensors"),
    checkpoint: Checkpoint = "best",
    all: bool = False,
    dtype: Literal["float16", "bfloat16"] | None = None,
    license: str | None = None,
    temperature: float | None = None,
    truncation: float | None = None,
    truncation_cutoff: int | None = None,
    sampler: Sampler | None = None,
    sampling_steps: int | None = None,
    guidance: float | None = None,
) -> Path | epath.Path:
    """Write a trained model to a file of its own, to keep, share, and draw from.

    Args:
        run: The run folder or model file.
        output: The file: a .safetensors of the weights that are sampled from (their moving average
            if there is one) and what is known of the model, which takes the place of a run folder
            in other commands; or a .stablehlo, a program with these weights that draws images by
            jax alone, from a key and labels, on CPUs, GPUs and TPUs.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.
        all: In a .safetensors: keep all that training needs to go on: both players, optimizers,
            moving averages.
        dtype: In a .safetensors: the type in which weights are stored, to half the size. None:
            float32.
        license: In a .safetensors: the licence under which others may use the weights, such as
            CC-BY-4.0.
        temperature: In a .stablehlo, as in genjax sample: the program's temperature.
        truncation: In a .stablehlo, as in genjax sample: the program's truncation.
        truncation_cutoff: In a .stablehlo, as in genjax sample: the program's truncation cutoff.
        sampler: In a .stablehlo, as in genjax sample: the program's sampler.
        sampling_steps: In a .stablehlo, as in genjax sample: its steps.
        guidance: In a .stablehlo, as in genjax sample: the program's guidance.

    Returns:
        The file.

    Raises:
        UsageError: There is no run, no such good checkpoint, a model file without what `all` asks
            for, an option that the kind of file or the family does not have, or the file cannot be
            written there.
    """
    how: dict[str, Any] = dict(sampler=sampler, sampling_steps=sampling_steps, guidance=guidance)
    how |= dict(temperature=temperature, truncation=truncation, truncation_cutoff=truncation_cutoff)
    check_choice("dtype", dtype, Literal["float16", "bfloat16"])
    path = _checked(output, how, dict(all=all or None, dtype=dtype, license=license))
    trained = load(run, checkpoint)
    if path.suffix == program.SUFFIX:
        options = sample_options(trained.recipe, **how)
        write_atomically(path, program.to_program(trained, options))
        return path if is_remote(path) else Path(path)
    card = to_card(trained)
    if all and not card.is_whole:
        raise UsageError(f"{trained.origin} holds what samples need, no more: wanted a run")
    if license is not None:
        card = dataclasses.replace(card, license=license)
    state = trained.state
    if not all and card.is_whole:
        card, state = dataclasses.replace(card, is_whole=False), state.for_sampling()
    write_model(path, card, state, dtype)
    return path if is_remote(path) else Path(path)


def _checked(output: str | Path, of_program: dict[str, Any], of_file: dict[str, Any]) -> epath.Path:
    """Return the path of the output, if it can be one with these options of both kinds."""
    path = output_path(output, SUFFIX, program.SUFFIX)
    for kind, options in ((SUFFIX, of_file), (program.SUFFIX, of_program)):
        given = [f"{name} = {value}" for name, value in options.items() if value is not None]
        if given and path.suffix != kind:
            raise UsageError(f"output {path}: {', '.join(given)} wanted a {kind}")
    return path


def to_card(trained: Trained) -> Card:
    """Return what is known of a trained model."""
    if trained.card is not None:
        return trained.card
    folder = trained.folder
    assert folder is not None
    config = folder.read_config()
    starts = read_lines(folder.environment)
    return Card(
        *(trained.recipe, trained.spec, trained.class_names, trained.step),
        origin=f"run {config.id}",
        images=config.images,
        data_digest=config.data_digest,
        quality=dict(trained.quality),
        evaluation=latest_evaluation(folder, trained.step),
        minutes=round(trained_for(folder, trained.step)[1], 1),
        versions=_versions(starts[-1]) if starts else {},
        is_whole=True,
    )


def _versions(start: dict[str, Any]) -> dict[str, str]:
    """Return the versions of Python and of packages in a line of `environment.jsonl`."""
    versions = start.get("versions")
    found = versions if isinstance(versions, dict) else {}
    return {str(k): str(v) for k, v in ({"python": start.get("python")} | found).items()}


def describe(path: File) -> dict[str, Any]:
    """Return the card of a model file or run folder as JSON values, after verifying the arrays."""
    arrays: dict[str, Any]
    if is_model_file(path):
        card, arrays = read_arrays(path)
    else:
        trained = load(path)
        card, arrays = to_card(trained), named_leaves(trained.state)
    return (
        {"arrays": len(arrays), "values": sum(array.size for array in arrays.values())}
        | {"bytes": sum(array.nbytes for array in arrays.values())}
        | dataclasses.asdict(card)
        | {"recipe": to_json(card.recipe)}
    )
