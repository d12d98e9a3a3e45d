"""The families of models, one module a paper, and the one place where they are registered."""

from genjax.models import biggan, dcgan, gan, glow, stylegan, stylegan2, vae, wgan
from genjax.types import Family

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
}
