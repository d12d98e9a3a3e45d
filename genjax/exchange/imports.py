"""Import of the weights of other implementations as model files."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from pydantic import ValidationError

from genjax.data.names import some
from genjax.interop.entries import Array, Format
from genjax.interop.files import HoldsCode, read_arrays
from genjax.interop.formats import FORMATS
from genjax.run.model_file import SUFFIX, Card, output_path, write_model
from genjax.run.options import Output, check_choice
from genjax.run.recipe import UNKNOWN, Recipe
from genjax.run.states import abstract_state
from genjax.types import ImageSpec, UsageError, describe

# Names of state dicts in files, the better ones first: averaged weights before others.
OF_ANY = ("model_ema", "ema_model", "ema", "state_dict_ema", "ema_state_dict", "params_ema")
AVERAGED = ("g_ema", "G_ema", "netG_ema", "generator_ema", *OF_ANY, "shadow")
WHOLE = ("state_dict", "model_state_dict", "model", "params")
KNOWN = {
    "G.": (*AVERAGED, "generator", "netG", "G", "g", *WHOLE),
    "D.": ("discriminator", "critic", "netD", "D", "d", *WHOLE),
    "": (*OF_ANY, "shadow", *WHOLE),
}

# What gets a state dict out of files that hold code, in Python.
UNPACK = 'torch.save(torch.load("FILE", weights_only=False).state_dict(), "weights.pth")'
UNPACK_STYLEGAN2 = (
    'torch.save(legacy.load_network_pkl(open("FILE", "rb"))["G_ema"].state_dict(), "G_ema.pth")'
)

log = logging.getLogger(__name__)


def import_model(
    family: tyro.conf.Positional[str],
    files: Annotated[
        Sequence[str | Path],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="FILE...", constructor_factory=lambda: list[str]),
    ],
    output: Annotated[str | Path, Output] = Path("model.safetensors"),
    key: tuple[str, ...] = (),
    size: tuple[int, int] | None = None,
    classes: int | None = None,
    bits: int | None = None,
    activation: Literal["relu", "tanh"] | None = None,
    batch_norm_epsilon: float | None = None,
    spectral_epsilon: float | None = None,
    conv_clamp: float | None = None,
    mapping_lr_multiplier: float | None = None,
    config: str | Path | None = None,
    scheduler: str | Path | None = None,
    license: str | None = None,
) -> Path:
    """Turn the weights of another implementation into a model file, to draw from as from a run.

    Known are the MLP gan, dcgan and vae of PyTorch's examples, wgan and wgan_gp in these networks,
    biggan (also deep) and stylegan2 of their authors, glow of rosinality, diffusion of diffusers.

    Args:
        family: The family that the weights are of.
        files: A state dict in a .pth or the like, .npz or .safetensors. Of a GAN: that of G, and if
            there is one that of D, which training needs to start from it; a file that holds both is
            named twice.
        output: The .safetensors to write.
        key: For each file that holds several state dicts, the name of the one to take; a.b is b in
            the dict a. Empty: averaged weights such as g_ema, or else by other names in use.
        size: Height and width of images, where the arrays do not say them: of glow and diffusion,
            and of an MLP's images that are not square.
        classes: dcgan, wgan, wgan_gp: number of classes, if G is conditional and there is no D.
        bits: glow: bits of a gray value.
        activation: vae: activation of the hidden layers. None: relu.
        batch_norm_epsilon: biggan: its BN_eps. None: 1e-5.
        spectral_epsilon: biggan: its SN_eps. None: 1e-6.
        conv_clamp: stylegan2: its conv_clamp, 0 if it was None, as with --fp32. None: 256.
        mapping_lr_multiplier: stylegan2: the lr_multiplier of its mapping. None: 0.01.
        config: diffusion: the config.json of the network. None: it is as DDPM's.
        scheduler: diffusion: the scheduler_config.json, which says what the network predicts and at
            which noise levels. None: noise, on DDPM's linear schedule.
        license: The licence of the weights.

    Returns:
        The file.

    Raises:
        UsageError: A file cannot be read, its arrays are not those of the family, an option that
            they leave open is missing, or one is given that the family does not have.
    """
    check_choice("activation", activation, Literal["relu", "tanh"])
    options: dict[str, Any] = {
        **{"size": size, "classes": classes, "bits": bits, "activation": activation},
        **{"batch_norm_epsilon": batch_norm_epsilon, "spectral_epsilon": spectral_epsilon},
        **{"conv_clamp": conv_clamp, "mapping_lr_multiplier": mapping_lr_multiplier},
        **{"config": config, "scheduler": scheduler},
    }
    given = {name: value for name, value in options.items() if value is not None}
    format = _check(family, files, key, given)
    given |= {
        name: _read_json(name, given[name]) for name in ("config", "scheduler") if name in given
    }
    path = output_path(output, SUFFIX)
    recipe, spec, variables = _load(family, format, files, key, given)
    state = format.to_state(recipe.model, spec, variables)
    is_whole = format.is_gan and "discriminator" in variables
    origin = f"imported from {', '.join(map(_digest, files))}"
    names = tuple(map(str, range(spec.classes)))
    card = Card(recipe, spec, names, step=0, origin=origin, license=license, is_whole=is_whole)
    log.info("%s of %s", family, spec)
    _tell(format, recipe.model, given)
    write_model(path, card, state if is_whole else state.for_sampling(), None)
    return Path(path)


def _load(
    family: str,
    format: Format,
    files: Sequence[str | Path],
    key: Sequence[str],
    given: Mapping[str, Any],
) -> tuple[Recipe, ImageSpec, Any]:
    """Return the recipe, the shape of images and the variables that files and options say."""
    arrays = _read(family, format, files, key)
    try:
        recipe, spec = _infer(family, format, arrays, given)
        return recipe, spec, format.load(recipe.model, spec, arrays)
    except (UsageError, ValidationError) as error:
        hint = "; those of D come second" if format.is_gan and _fit(format, arrays, given) else ""
        text = f"{', '.join(map(str, files))} as {family}: {describe(error)}{hint}"
        raise UsageError(text) from error


def _fit(format: Format, arrays: Mapping[str, Array], given: Mapping[str, Any]) -> bool:
    """Return whether a GAN's arrays fit if those of G and D are swapped."""
    swap = {"G.": "D.", "D.": "G."}
    swapped = {swap[name[:2]] + name[2:]: array for name, array in arrays.items()}
    try:
        config, spec = format.infer(swapped, given)
        format.load(config, spec, swapped)
    except (UsageError, ValidationError):
        return False
    return True


def _check(
    family: str, files: Sequence[str | Path], key: Sequence[str], given: Mapping[str, Any]
) -> Format:
    """Return the format of a family, if all that is given fits it."""
    format = FORMATS.get(family)
    if format is None:
        raise UsageError(f"family {family!r}: wanted {', '.join(FORMATS)}")
    if isinstance(files, (str, Path)):
        raise UsageError(f"files = {files}: wanted a list of them")
    most = 2 if format.is_gan else 1
    if not 1 <= len(files) <= most:
        wanted = "that of G, and perhaps that of D" if format.is_gan else "one"
        raise UsageError(f"{len(files)} files: of {family} wanted {wanted}")
    if len(key) > len(files):
        raise UsageError(f"key = {' '.join(key)}: wanted one for each of {len(files)} files")
    for name in given.keys() - set(format.options):
        of = [other for other, it in FORMATS.items() if name in it.options]
        raise UsageError(
            f"{name} = {given[name]}: an option of {', '.join(of)}, not of {family}, whose arrays "
            "say all such"
        )
    return format


def _read(
    family: str, format: Format, files: Sequence[str | Path], key: Sequence[str]
) -> dict[str, Array]:
    """Read the arrays of all files; floating-point ones become float32."""
    found: dict[str, Array] = {}
    for i, file in enumerate(files):
        player = ("G.", "D.")[i] if format.is_gan else ""
        try:
            arrays = read_arrays(file, key[i] if i < len(key) else None, KNOWN[player])
        except HoldsCode as error:
            unpack = UNPACK_STYLEGAN2 if family == "stylegan2" else UNPACK
            raise UsageError(
                f"{error}; if you trust the file, which may run any code, and can import what it "
                f"needs, this gets its weights out in Python: {unpack}"
            ) from error
        found |= {f"{player}{name}": array for name, array in arrays.items()}
    whole = {name: array for name, array in found.items() if array.dtype.kind in "iub"}
    with np.errstate(over="ignore"):
        floats = {k: np.asarray(v, np.float32) for k, v in found.items() if k not in whole}
    broken = [name for name, array in floats.items() if not np.isfinite(array).all()]
    if broken:
        raise UsageError(f"{len(broken)} arrays have values that are not finite: {some(broken)}")
    return whole | floats


def _infer(
    family: str, format: Format, arrays: Mapping[str, Array], given: Mapping[str, Any]
) -> tuple[Recipe, ImageSpec]:
    """Return the recipe and the shape of images that arrays and options say."""
    config, spec = format.infer(arrays, given)
    size = given.get("size", (spec.height, spec.width))
    if size != (spec.height, spec.width):
        raise UsageError(f"size = {size}: the arrays are of images of {spec.height}x{spec.width}")
    fields = {name: value for name, value in given.items() if hasattr(config, name)}
    config = dataclasses.replace(config, **fields)
    recipe = Recipe(family=family, model=config, data=UNKNOWN)
    if "size" in given:
        abstract_state(recipe, spec)  # raises if the family has no such images
    return recipe, spec


def _read_json(option: str, path: str | Path) -> dict[str, Any]:
    """Read the .json file of an option."""
    try:
        found = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{option} {path}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{option} {path}: is no object of names and values")
    return found


def _digest(file: str | Path) -> str:
    """Return the name of a file, and its digest."""
    with Path(file).open("rb") as opened:
        return f"{Path(file).name} (sha256 {hashlib.file_digest(opened, 'sha256').hexdigest()})"


def _tell(format: Format, config: Any, given: Mapping[str, Any]) -> None:
    """Say what the arrays leave open, and how it was taken."""
    taken = [
        f"{name} = {getattr(config, name)} (--{name.replace('_', '-')})"
        for name in format.options
        if name not in given and hasattr(config, name)
    ]
    if format.unsaid and format.said_by not in given:
        taken.append(format.unsaid)
    if taken:
        log.info("not in the arrays, and taken as usual: %s", "; ".join(taken))
