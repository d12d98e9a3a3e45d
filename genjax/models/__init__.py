"""The families of models, one module a paper, and the one place where they are registered.

Others join them by `register`, or as packages whose entry points of the group `genjax.families`
name a `Family`.
"""

import contextlib
import contextvars
import dataclasses
import importlib.metadata
import logging
import re
from collections.abc import Iterator, Mapping

from genjax.models import biggan, dcgan, diffusion, gan, glow, stylegan, stylegan2, vae, wgan
from genjax.types import Config, Family, UsageError

FAMILIES: dict[str, Family] = {
    "gan": gan.FAMILY,
    "dcgan": dcgan.FAMILY,
    "wgan": wgan.WGAN,
    "wgan_gp": wgan.WGAN_GP,
    "biggan": biggan.FAMILY,
    "stylegan": stylegan.FAMILY,
    "stylegan2": stylegan2.FAMILY,
    "vae": vae.FAMILY,
    "glow": glow.FAMILY,
    "diffusion": diffusion.FAMILY,
}
ENTRY_POINTS = "genjax.families"
log = logging.getLogger("genjax")
_OWN = frozenset(FAMILIES)


@dataclasses.dataclass(frozen=True)
class RecipeFile:
    """The recipe file that registers a family.

    Attributes:
        path: Its absolute path.
        digest: The first 16 hexadecimal digits of its SHA-256.
    """

    path: str
    digest: str


_files: dict[str, RecipeFile] = {}
_running: contextvars.ContextVar[RecipeFile | None] = contextvars.ContextVar("file", default=None)


def register(name: str, family: Family) -> None:
    """Add a family of models, which recipes then name, and every function and command takes.

    Args:
        name: Its name, of small letters, digits and underscores. One that was registered before is
            replaced, so that a notebook's cell can be run again.
        family: Its config and functions.

    Raises:
        UsageError: The name is another's, or the family lacks what its contract asks for.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", str(name)):
        raise UsageError(f"family {name!r}: wanted small letters, digits and underscores")
    if name in _OWN:
        raise UsageError(f"family {name!r}: is genjax's own; wanted another name")
    if not isinstance(family, Family):
        raise UsageError(f"family {name!r}: is a {type(family).__name__}; wanted a genjax.Family")
    if not (isinstance(family.config, type) and issubclass(family.config, Config)):
        raise UsageError(f"family {name!r}: its config is no subclass of genjax.Config")
    if "__dataclass_fields__" not in vars(family.config):
        raise UsageError(f"family {name!r}: its config wants the decorator genjax.checked")
    for part in ("init", "step", "sample"):
        if not callable(getattr(family, part)):
            raise UsageError(f"family {name!r}: its {part} is no function")
    if family.decode and not family.encode and not hasattr(family.config, "latent_size"):
        raise UsageError(f"family {name!r}: its config wants a latent_size, for decode")
    FAMILIES[name] = family
    file = _running.get()
    if file is not None:
        _files[name] = file


@contextlib.contextmanager
def registering(file: RecipeFile) -> Iterator[None]:
    """Note of families that are registered inside the context that they are of a file."""
    before = _running.set(file)
    try:
        yield
    finally:
        _running.reset(before)


def file_of(name: str) -> RecipeFile | None:
    """Return the recipe file that registered a family; None for one that needs no file."""
    return _files.get(name)


def find_family(name: str) -> Family | None:
    """Return the family of a name, from the entry point of a package if need be, or None."""
    if name not in FAMILIES:
        for point in importlib.metadata.entry_points(group=ENTRY_POINTS, name=name):
            try:
                register(name, point.load())
            except Exception as error:  # whatever a package raises on import
                package = point.dist.name if point.dist else point.value
                raise UsageError(f"family {name!r} of the package {package}: {error}") from error
    return FAMILIES.get(name)


def all_families() -> Mapping[str, Family]:
    """Return all families, those of packages too; warn of one that cannot be imported."""
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            find_family(point.name)
        except UsageError as error:
            log.warning("%s", error)
    return FAMILIES
