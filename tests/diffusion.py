"""The reference vectors of diffusion: rows that differ in size are compared one by one."""

import json

import jax.numpy as jnp
import numpy as np

from genjax.objectives import paths


class Vectors:
    """The arrays of one file of vectors, images as [B, H, W, C]."""

    def __init__(self, path):
        with np.load(path) as file:
            self._arrays = {name: file[name] for name in file.files}
        self.meta = json.loads(str(self._arrays["meta"]))
        self.names = [name[len("out/") :] for name in self._arrays if name.startswith("out/")]

    def read(self, name):
        array = self._arrays[name]
        return np.moveaxis(array, -3, -1) if array.ndim >= 4 else array

    def given(self, name):
        return jnp.asarray(self.read(f"in/{name}"))

    def param(self, name):
        return jnp.asarray(self._arrays[f"param/{name}"])

    def check(self, name, found, tolerance=1e-6, row=None):
        """Compare with an output, or with a row of it: the largest error by its largest entry."""
        wanted = self.read(f"out/{name}") if row is None else self.read(f"out/{name}")[row]
        found = np.asarray(found, np.float64)
        assert found.shape == wanted.shape, name
        error = np.abs(found - wanted).max() / np.abs(wanted).max()
        assert error < tolerance, f"{name}: {error}"


PREDICTIONS = {
    "epsilon": paths.noise_prediction,
    "sample": paths.data_prediction,
    "v_prediction": paths.velocity_prediction,
}


class Schedule:
    """A schedule of the vectors, and their linear model."""

    def __init__(self, vectors, name):
        arguments = vectors.meta["schedules"][name]
        self.steps = arguments["num_train_timesteps"]
        if arguments["beta_schedule"] == "linear":
            ends = arguments["beta_start"], arguments["beta_end"]
            self.betas = paths.linear_betas(self.steps, *ends)
        else:
            self.betas = paths.cosine_betas(self.steps)
        self.angles = paths.angles_of(self.betas)
        self.table = self.levels(self.angles).in_float32()
        self._model = [vectors.param(f"model.{letter}") for letter in "Kuw"]

    def levels(self, s):
        return paths.level(paths.circle, s, self.angles)

    def model(self, x, time):
        kernel, slope, bias = self._model
        along = jnp.reshape(time, (-1, 1, 1, 1)) / self.steps
        product = jnp.matmul(x, kernel.T, precision="highest")
        return product + along * slope.reshape(1, 1, 1, -1) + bias.reshape(1, 1, 1, -1)
