"""The implementations whose state dicts become models, by the family that they are of here."""

from genjax.interop import biggan, dcgan, diffusion, gan, glow, stylegan2, vae, wgan
from genjax.interop.entries import Format

FORMATS: dict[str, Format] = {
    "gan": gan.FORMAT,
    "dcgan": dcgan.FORMAT,
    "wgan": wgan.WGAN,
    "wgan_gp": wgan.WGAN_GP,
    "biggan": biggan.FORMAT,
    "stylegan2": stylegan2.FORMAT,
    "vae": vae.FORMAT,
    "glow": glow.FORMAT,
    "diffusion": diffusion.FORMAT,
}
