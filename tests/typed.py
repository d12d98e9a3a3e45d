"""What a user's file may look like: it is not run, but checked by mypy as if with --strict."""

from pathlib import Path
from typing import Any, assert_type

import jax
import numpy as np
import optax

import genjax

Image = np.ndarray[Any, np.dtype[np.uint8]]


@genjax.checked
class Config(genjax.Config):
    """A config of one's own."""

    latent_size: int = 3


def train(images: Image, init: jax.Array) -> genjax.Result:
    data = genjax.data.arrays(images, labels=None, class_names=["a"])
    pairs = genjax.data.indexed([(images[0], 0)], image=0, label=1)
    assert_type(len(data) + len(pairs), int)
    recipe = genjax.load_recipe("gan_digits").with_optimizers(generator=optax.sgd(0.1))
    for record in genjax.training(recipe, "run", data=data, init="trained:gan_digits"):
        assert_type(record, genjax.Record)
        assert_type(record.trained, genjax.Trained)
        if record.warnings or record.metrics["d_loss"] > record.step:
            break
    spec = genjax.ImageSpec(height=8, width=8, channels=1)
    state = recipe.functions.init(recipe.model, init, spec)
    batch = genjax.Batch(images, np.zeros(len(images), np.int32))
    state, _ = recipe.functions.step(recipe.model, state, batch, init)
    Config(latent_size=4)
    genjax.prepare("digits", "digits.array_record")
    options = genjax.DataOptions(size=(8,))
    own = genjax.Recipe("gan", recipe.model, data_options=options, steps=100)
    genjax.register("mine", recipe.functions)
    try:
        return genjax.train(own, Path("run"), data=data)
    except genjax.Stopped as stop:
        assert_type(stop.result, genjax.Result | None)
        return genjax.resume("run", steps=200)


def use(run: genjax.Result) -> genjax.Trained:
    model = genjax.load(run, "latest")
    images = genjax.sample(model, n=3, seed=1)
    genjax.interpolate(run.run, steps=5, path="linear")
    genjax.traverse(run)
    genjax.manipulate("run", to=3, source=7)
    genjax.manifold("run")
    genjax.mix("run")
    genjax.project("run", images=[Path("a.png")], styles="w.npy")
    genjax.reconstruct("run", images=[Path("a.png")])
    scores = genjax.evaluate(model, n=100)["metrics"]
    assert_type(genjax.history(run), list[dict[str, float]])
    genjax.fidelity(images, "digits", save_statistics="digits.npz")
    print(genjax.compare(["run", run, model], csv="a.csv"), scores, genjax.__version__)
    genjax.tradeoff(run)
    genjax.score(run, "folder:mine")
    genjax.encode(run, genjax.data.arrays(images))
    genjax.classify(run)
    genjax.import_model("gan", ["G.pth", Path("D.pth")])
    return genjax.load(genjax.export(model, "model.safetensors", dtype="float16"))
