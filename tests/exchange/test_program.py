from pathlib import Path

import jax
import numpy as np
from jax import export

from genjax.exchange.program import to_program
from genjax.figures.sample import accepts, sample_options, sample_state
from genjax.run.trained import Trained
from tests.exchange.test_export import model_of
from tests.families import each_family

OPTIONS = {"temperature": 0.7, "truncation": 0.5, "truncation_cutoff": 2}


@each_family("gan", "dcgan", "stylegan2", slow=("biggan", "glow"))
def test_a_program_draws_what_the_model_draws(name):
    recipe, state = model_of(name)
    trained = Trained(recipe, state, 3, (), Path("a test"), {})
    how = {name: value for name, value in OPTIONS.items() if accepts(recipe.functions, name)}
    options = sample_options(recipe, **how)
    program = export.deserialize(bytearray(to_program(trained, options)))
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert [str(each.shape[0]) for each in (program.in_avals[1], program.out_avals[0])] == [
        "n",
        "n",
    ]
    labels = np.arange(3, dtype=np.int32)[::-1]
    images = np.asarray(program.call(jax.random.PRNGKey(0), labels))
    assert (images.shape, images.dtype) == ((3, *state.spec.shape), np.uint8)
    wanted, other = (
        sample_state(recipe, state, jax.random.key(0), labels, each)
        for each in (options, dict.fromkeys(options, 1))
    )
    differ = images.astype(int) - wanted
    assert abs(differ).max() <= 1 and np.mean(differ != 0) < 1e-2
    assert images.std() > 1 and not (options and np.mean(images != other) < 0.1)
