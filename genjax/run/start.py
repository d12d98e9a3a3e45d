"""The weights that a training begins with: those of a trained model, where they fit."""

import logging
import secrets
from collections.abc import Collection, Sequence

import jax
import jax.numpy as jnp
from etils import epath

from genjax.data.names import some
from genjax.data.paths import is_remote
from genjax.data.processes import run_on_first
from genjax.run.checkpoint import Checkpoints
from genjax.run.folder import Origin, RunConfig, RunFolder, create_run_folder
from genjax.run.model_file import digest_of
from genjax.run.trained import Trained, load
from genjax.steps.state import named_leaves
from genjax.types import State, UsageError

log = logging.getLogger("genjax")


def origin_of(trained: Trained) -> Origin:
    """Return what a run keeps of the model that it starts from."""
    path = trained.origin if is_remote(trained.origin) else trained.origin.resolve()
    return Origin(str(path), trained.step, digest_of(trained.state))


def start_from(state: State, origin: Origin) -> State:
    """Return an initial state with a trained model's weights and statistics, where they fit.

    They fit where names and shapes agree. The others, the optimizers, and what else training tracks
    are those of the initial state.

    Raises:
        UsageError: The model has gone or changed, or nothing fits.
    """
    trained = load(origin.path, origin.step)
    if digest_of(trained.state) != origin.digest:
        raise UsageError(f"init = {origin.path}: has changed since the run began")
    found, wanted = named_leaves(trained.state.weights), named_leaves(state.weights)
    fits = {n for n, x in wanted.items() if n in found and found[n].shape == x.shape}
    if not any(".params." in f".{name}" for name in fits):
        raise UsageError(
            f"init = {origin.path}: is a {trained.recipe.family} of {trained.spec.shape}, of which "
            "no weights have the names and shapes of this model's"
        )
    # The average is that of a network whose layers are named already.
    fresh = [n for n in wanted if n not in fits and not n.startswith("ema.")]
    log.info("%d of %d arrays of %s", len(fits), len(wanted), trained)
    if fresh:
        log.info("not in it, or of another shape, and fresh: %s", some(_layers(fresh, fits), 12))
    # Copies, because one array may stand for both a network and its average.
    leaves = [jnp.array(found[n] if n in fits else x, x.dtype) for n, x in wanted.items()]
    return state.with_weights(jax.tree.unflatten(jax.tree.structure(state.weights), leaves))


def _layers(fresh: Sequence[str], fits: Collection[str]) -> list[str]:
    """Shorten names of arrays to those of their layers, or of a network of which nothing fits."""
    used = {name.split(".")[0] for name in fits}
    return list(
        dict.fromkeys(
            name.rpartition(".")[0] if (network := name.split(".")[0]) in used else network
            for name in fresh
        )
    )


def unpack(path: epath.Path) -> RunFolder:
    """Make a run folder, `runs/NAME`, of a model file with all that training needs.

    Raises:
        UsageError: The file holds no more than samples need.
    """
    trained = load(path)
    card = trained.card
    assert card is not None
    if not card.is_whole or card.images is None or card.data_digest is None:
        what = "was imported" if card.is_whole else "holds what samples need, no more"
        raise UsageError(
            f"{path} {what}: there is no training to go on with; to start from it: genjax train "
            f"RECIPE --init {path}"
        )
    folder = create_run_folder(None, path.stem)
    config = RunConfig(
        run_on_first(lambda: secrets.token_hex(8)),
        *(card.recipe, card.spec, card.images, card.class_names, card.data_digest),
        init=origin_of(trained),
    )
    folder.write_config(config)
    recipe = card.recipe
    checkpoints = Checkpoints(
        folder.checkpoints, config.id, recipe.keep, recipe.quality, writable=True
    )
    quality = {name: value for name, value in card.quality.items() if value is not None}
    checkpoints.save(card.step, trained.state, quality)
    checkpoints.close()
    log.info("%s goes on in %s", trained, folder.path)
    return folder
