import dataclasses
import functools
import json
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.interop import diffusion as interop
from genjax.models.diffusion import DiffusionConfig
from genjax.nn.unet import UNet, UNetConfig, sinusoidal
from genjax.types import ImageSpec, UsageError

SPEC = ImageSpec(8, 4, 1, 3)
CONFIG = UNetConfig(features=(4, 8), blocks=1, attention_sizes=(8,), groups=2)
# What a `UNet2DModel` may say that has one value here.
ALIKE = {
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "mid_block_scale_factor": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "act_fn": "silu",
    "resnet_time_scale_shift": "default",
    "add_attention": True,
}


def _config(args, height):
    """Return the config that the arguments of a `UNet2DModel` say."""
    assert {name: args[name] for name in ALIKE} == ALIKE
    kinds = args["down_block_types"]
    assert args["up_block_types"] == [kind.replace("Down", "Up") for kind in reversed(kinds)]
    return UNetConfig(
        features=tuple(args["block_out_channels"]),
        blocks=args["layers_per_block"],
        attention_sizes=tuple(height >> i for i, kind in enumerate(kinds) if "Attn" in kind),
        head_size=args["attention_head_dim"] or 0,
        groups=args["norm_num_groups"],
        dropout=args["dropout"],
        epsilon=args["norm_eps"],
        frequency_shift=args["freq_shift"],
        cosine_first=args["flip_sin_to_cos"],
        symmetric_padding=bool(args["downsample_padding"]),
    )


def _hidden(config, seen, classes):
    """Return, by their names, what layers of ours gave."""
    out = {name: values["__call__"][0] for name, values in seen.items() if "__call__" in values}

    def last(way, level, i):
        attention = f"{way}_{level}_attention_{i}"
        return out[attention if attention in out else f"{way}_{level}_block_{i}"]

    deepest = len(config.features) - 1
    found = {
        "conv_in": out["conv_in"],
        "mid_block": out["middle_block_1"],
        f"down_blocks.{deepest}": last("down", deepest, config.blocks - 1),
        f"up_blocks.{deepest}": last("up", 0, config.blocks),
    }
    for level in range(deepest):
        found[f"down_blocks.{level}"] = out[f"down_{level}_conv"]
        found[f"up_blocks.{level}"] = out[f"up_{deepest - level}_conv"]
    found = {f"hidden/{name}": value.transpose(0, 3, 1, 2) for name, value in found.items()}
    found["time_embedding"] = found["emb"] = out["time_1"]
    if classes:
        found["class_embedding"] = out["class_embedding"]
        found["emb"] = out["time_1"] + out["class_embedding"]
    return found


@pytest.mark.device
def test_everything_matches_the_reference(shared):
    vectors = np.load(shared / "reference/a/diffusion_a_unet.npz")
    meta = json.loads(str(vectors["meta"]))
    args, classes = meta["args"], meta["args"].get("num_class_embeds") or 0
    x, noise = (jnp.asarray(vectors[f"in/{name}"].transpose(0, 2, 3, 1)) for name in ("x", "noise"))
    spec = ImageSpec(*x.shape[1:], classes)
    config = _config(args, spec.height)
    other = _config(args | meta["other_args"], spec.height)
    heads = _config(args | {"attention_head_dim": meta["head_dim"]}, spec.height)
    time = jnp.asarray(vectors["in/timesteps"], jnp.float32)
    labels = jnp.asarray(vectors["in/class_labels"], jnp.int32) if classes else None
    arrays = {k.removeprefix("param/"): vectors[k] for k in vectors.files if k.startswith("param/")}
    assert meta["parameter_count"] == sum(array.size for array in arrays.values())
    variables = jax.tree.map(jnp.asarray, interop.load(config, spec, arrays))

    def apply(config, variables, **options):
        network = UNet(config, args["out_channels"], classes)
        return network.apply(variables, x, time, labels, train=False, **options)

    @jax.jit
    def run(variables):
        def loss_fn(variables):
            shown = {"capture_intermediates": True, "mutable": ["intermediates"]}
            sample, seen = apply(config, variables, **shown)
            losses = jnp.mean(jnp.square(sample - noise), axis=(1, 2, 3))
            return jnp.mean(losses), (sample, losses, seen["intermediates"])

        (loss, (sample, losses, seen)), grads = jax.value_and_grad(loss_fn, has_aux=True)(variables)
        images = {
            "sample": sample,
            "sample_other": apply(other, variables),
            "sample_heads": apply(heads, variables),
        }
        found = {name: image.transpose(0, 3, 1, 2) for name, image in images.items()}
        found |= {"loss": loss, "loss_per_example": losses}
        return grads, found | _hidden(config, seen, classes)

    grads, found = run(variables)
    found |= {f"grad/{name}": grad for name, grad in interop.dump(config, spec, grads).items()}
    table = jnp.asarray(vectors["in/timesteps_table"], jnp.float32)
    shift, cosine_first = config.frequency_shift, config.cosine_first
    for name, (times, *options) in {
        "time_proj": (time, shift, cosine_first),
        "time_proj_table": (table, shift, cosine_first),
        "time_proj_table_flip_shift0": (table, 0, True),
    }.items():
        found[name] = sinusoidal(times, config.features[0], *options)

    names = [name.removeprefix("out/") for name in vectors.files if name.startswith("out/")]
    constant = {f"grad/{name}" for name in arrays if name.endswith("to_k.bias")}
    assert found.keys() - constant == set(names)
    worst = {}
    for name in names:
        expected = vectors[f"out/{name}"]
        assert found[name].shape == expected.shape, name
        error = np.abs(np.asarray(found[name]) - expected).max() / np.abs(expected).max()
        worst[name] = error / (2e-5 if name.startswith("grad/") else 5e-6)
    most = max(worst, key=worst.__getitem__)
    assert worst[most] < 1, f"{most}: {worst[most]} times the tolerance"


@functools.cache
def _drawn(config, spec):
    """Return variables that are all drawn at random."""
    network = UNet(config, spec.channels, spec.classes)
    inputs = jnp.zeros((1, *spec.shape)), jnp.zeros(1)
    shapes = jax.eval_shape(
        lambda key: network.init(key, *inputs, None, train=False), jax.random.key(0)
    )
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


CASES = {
    "small": (CONFIG, SPEC),
    "one level, no attention but in the middle": (
        UNetConfig(features=(6,), blocks=2, attention_sizes=(), groups=3),
        ImageSpec(5, 7, 3),
    ),
    "four levels, attention at the first and the last": (
        UNetConfig(
            features=(4, 8, 4, 12), blocks=1, attention_sizes=(16, 2), groups=4, head_size=2
        ),
        ImageSpec(16, 24, 3, 2),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_dump_and_load_are_inverse_and_the_arrays_say_the_network(case):
    config, spec = CASES[case]
    variables = _drawn(config, spec)
    arrays = interop.dump(config, spec, variables)
    assert arrays["conv_in.weight"].shape == (config.features[0], spec.channels, 3, 3)
    chex.assert_trees_all_equal(interop.load(config, spec, arrays), variables)
    said = {
        "sample_size": [spec.height, spec.width],
        "norm_num_groups": config.groups,
        "attention_head_dim": config.head_size or None,
        "norm_eps": config.epsilon,
        "freq_shift": 1,
        "flip_sin_to_cos": False,
        "downsample_padding": 0,
        "_class_name": "UNet2DModel",
    }
    found, found_spec = interop.infer(arrays, {"config": said})
    assert (found.network, found_spec) == (config, spec)
    assert found.conditional == (spec.classes > 0)
    theirs = {name: said[name] for name in ("norm_num_groups", "sample_size")}
    found, _ = interop.infer(arrays, {"config": theirs | {"attention_head_dim": None}})
    unlike = {"epsilon": 1e-5, "symmetric_padding": True, "frequency_shift": 0, "head_size": 0}
    assert found.network == dataclasses.replace(config, cosine_first=True, **unlike)


SAID = {"norm_num_groups": 2, "attention_head_dim": None}
# What a scheduler_config.json of theirs says, and the config's fields.
SCHEDULERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "DDPM's of before v_prediction": (
        {
            "_class_name": "DDPMScheduler",
            "beta_schedule": "linear",
            "beta_start": 1e-3,
            "beta_end": 0.03,
            "num_train_timesteps": 500,
            "trained_betas": None,
            "variance_type": "fixed_large",
            "clip_sample": False,
        },
        {
            "beta_start": 1e-3,
            "beta_end": 0.03,
            "time_steps": 500,
            "sampling_steps": 500,
            "variance": "large",
            "clip": False,
        },
    ),
    "velocity, cosine": (
        {
            "beta_schedule": "squaredcos_cap_v2",
            "prediction_type": "v_prediction",
            "variance_type": "fixed_small_log",
            "num_train_timesteps": 4000,
        },
        {"path": "cosine", "prediction": "velocity", "time_steps": 4000},
    ),
    "data": (
        {"_class_name": "DDIMScheduler", "beta_schedule": "linear", "prediction_type": "sample"},
        {"prediction": "data"},
    ),
}


@pytest.mark.parametrize("case", SCHEDULERS)
def test_a_scheduler_says_the_path_and_what_is_predicted(case):
    said, fields = SCHEDULERS[case]
    arrays = interop.dump(CONFIG, SPEC, _drawn(CONFIG, SPEC))
    options = {"size": (8, 4), "config": SAID}
    without, _ = interop.infer(arrays, options)
    found, _ = interop.infer(arrays, {**options, "scheduler": said})
    assert found == dataclasses.replace(without, **fields)


@pytest.mark.parametrize("shape", ["linear", "conv"])
def test_old_names_of_attention_are_read(shape):
    arrays = interop.dump(CONFIG, SPEC, _drawn(CONFIG, SPEC))
    old = {}
    for name, array in arrays.items():
        if ".to_" in name:
            for new, before in {
                "to_q": "query",
                "to_k": "key",
                "to_v": "value",
                "to_out.0": "proj_attn",
            }.items():
                name = name.replace(f".{new}.", f".{before}.")
            array = array[:, :, None, None] if shape == "conv" and array.ndim == 2 else array
        old[name] = array
    assert len(old.keys() - arrays.keys()) == 8 * 4  # of one block down, one middle, two up
    chex.assert_trees_all_equal(interop.load(CONFIG, SPEC, old), interop.load(CONFIG, SPEC, arrays))
    with pytest.raises(UsageError, match=r"unknown: .*query.weight"):
        interop.load(CONFIG, SPEC, arrays | old)


def test_a_model_that_is_not_told_classes_has_none_in_its_file():
    plain, told = (DiffusionConfig(network=CONFIG, conditional=kind) for kind in (False, True))
    params = _drawn(CONFIG, ImageSpec(8, 4, 1))["params"]
    arrays = interop.FORMAT.dump(plain, SPEC, params)
    assert "class_embedding.weight" not in arrays
    chex.assert_trees_all_equal(interop.FORMAT.load(plain, SPEC, arrays), params)
    with pytest.raises(UsageError, match=r"missing: class_embedding.weight"):
        interop.FORMAT.load(told, SPEC, arrays)


def test_what_does_not_fit_is_named():
    arrays = interop.dump(CONFIG, SPEC, _drawn(CONFIG, SPEC))
    wrong = dict(arrays)
    del wrong["mid_block.resnets.1.norm2.bias"]
    wrong["mid_block.resnets.2.norm2.bias"] = np.zeros(8)
    wrong["conv_out.weight"] = np.zeros((4, 1, 3, 3))
    with pytest.raises(UsageError) as error:
        interop.load(CONFIG, SPEC, wrong)
    assert str(error.value) == (
        "these parameters do not fit the config: 1 missing: mid_block.resnets.1.norm2.bias (8,); "
        "1 unknown: mid_block.resnets.2.norm2.bias; "
        "1 misshapen: conv_out.weight (4, 1, 3, 3), wanted (1, 4, 3, 3)"
    )
    with pytest.raises(UsageError, match="multiples of 2"):
        interop.load(CONFIG, ImageSpec(9, 4, 1, 3), arrays)
    with pytest.raises(UsageError, match="missing: class_embedding"):
        del wrong["class_embedding.weight"]
        interop.load(CONFIG, SPEC, wrong)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {}, "say --size HEIGHT WIDTH"),
        ({}, {"size": (8, 4)}, r"32 do not divide features \(4, 8\): say --config config.json"),
        ({}, {"size": (8, 4), "config": {"norm_num_groups": 3}}, "groups = 3: should divide"),
        ({}, {"config": {"norm_num_groups": 2, "sample_size": [8, 5]}}, "8x5: .* multiples of 2"),
        ({}, {"config": {"sample_size": "8"}}, "sample_size = '8': should be a number or two"),
        (
            {},
            {"size": (8, 4), "config": {"norm_num_groups": 2, "block_out_channels": [4, 4]}},
            r"block_out_channels = \[4, 4\]: the arrays have \[4, 8\]",
        ),
        (
            {},
            {"size": (8, 4), "config": {**SAID, "in_channels": 3}},
            "in_channels = 3: the arrays h",
        ),
        ({}, {"config": {"_class_name": "UNet1DModel", "sample_size": 8}}, "_class_name = 'UNet1D"),
        ({}, {"size": (8, 4), "config": {"act_fn": "gelu"}}, "act_fn = 'gelu': should be 'silu'"),
        *(
            ({}, {"size": (8, 4), "config": SAID, "scheduler": said}, message)
            for said, message in (
                ({"_class_name": "FlowMatchX"}, "no beta_schedule in that of FlowMatchX"),
                ({"beta_schedule": "scaled_linear"}, "'scaled_linear': should be 'linear' or 'squ"),
                ({"beta_schedule": ["linear"]}, r"\['linear'\]: should be 'linear'"),
                ({"beta_schedule": "linear", "variance_type": "learned"}, "type = 'learned'"),
                (
                    {"beta_schedule": "linear", "clip_sample_range": 2.0},
                    "_range = 2.0: should be 1",
                ),
                ({"beta_schedule": "linear", "rescale_betas_zero_snr": True}, "= True: should be"),
            )
        ),
        ({"conv_in.weight": None}, {}, "there is no conv_in.weight among"),
        ({"conv_out.weight": np.zeros((2, 4, 3, 3))}, {}, "conv_out.weight gives 2 channels"),
        (
            {"down_blocks.1.resnets.0.conv1.weight": None},
            {"size": (8, 4)},
            "there is no down_blocks.1.resnets.0",
        ),
    ],
)
def test_what_arrays_do_not_say_is_asked_for(changes, options, message):
    arrays = interop.dump(CONFIG, SPEC, _drawn(CONFIG, SPEC)) | changes
    arrays = {name: array for name, array in arrays.items() if array is not None}
    with pytest.raises(UsageError, match=message) as error:
        interop.infer(arrays, options)
    assert "\n" not in str(error.value)
