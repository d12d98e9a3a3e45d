"""One room a paper; this is the single place where they are registered."""

from genjax.models import gan
from genjax.types import Family

FAMILIES: dict[str, Family] = {
    "gan": gan.FAMILY,
}
