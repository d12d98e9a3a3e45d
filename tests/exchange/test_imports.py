"""Tests of importing the weights of other implementations."""

import argparse
import dataclasses
import functools
import hashlib
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import genjax
from genjax import UsageError
from genjax.cli.run import run
from genjax.interop.files import read_arrays
from genjax.interop.formats import FORMATS
from genjax.models import FAMILIES, biggan, dcgan, diffusion, gan, glow, stylegan2, vae, wgan
from genjax.nn.unet import UNetConfig
from genjax.run.model_file import read_card
from genjax.run.states import abstract_state
from genjax.types import ImageSpec
from tests.states import drawn_flow, drawn_state

CHECKPOINT = Path(__file__).parents[1] / "goldens/torch_checkpoint.pth"
KEY = jax.random.key(3)
USUAL = biggan.BigganConfig()
BIGGAN = dataclasses.replace(
    USUAL,
    latent_size=8,
    shared_size=5,
    generator=dataclasses.replace(USUAL.generator, features=2, attention_resolutions=(8,)),
    discriminator=dataclasses.replace(USUAL.discriminator, features=2, attention_resolutions=(4,)),
)
STYLE_PLAYER = stylegan2.PlayerConfig(channel_base=64, channel_max=6, mapping_layers=2)
# A config of each family, and images, that arrays and these options say.
CASES: dict[str, tuple[Any, ImageSpec, dict[str, Any]]] = {
    "gan": (
        gan.GanConfig(
            latent_size=5,
            generator=gan.PlayerConfig(hidden_sizes=(6, 9)),
            discriminator=gan.PlayerConfig(hidden_sizes=(7,)),
        ),
        ImageSpec(4, 4, 3),
        {},
    ),
    "dcgan": (
        dcgan.DcganConfig(
            latent_size=5,
            conditional=True,
            generator=dcgan.PlayerConfig(features=4),
            discriminator=dcgan.PlayerConfig(features=3),
        ),
        ImageSpec(16, 24, 3, 2),
        {"classes": 2},
    ),
    "wgan": (
        wgan.WganConfig(
            network="mlp",
            latent_size=5,
            conditional=True,
            generator=dataclasses.replace(wgan.WGAN_PLAYER, hidden_sizes=(6, 7)),
            critic=dataclasses.replace(wgan.WGAN_PLAYER, hidden_sizes=(8,)),
        ),
        ImageSpec(4, 6, 3, 2),
        {"size": (4, 6), "classes": 2},
    ),
    "wgan_gp": (
        wgan.WganGpConfig(
            latent_size=5,
            generator=dataclasses.replace(wgan.WGAN_GP_PLAYER, features=4),
            critic=dataclasses.replace(wgan.WGAN_GP_PLAYER, features=3),
        ),
        ImageSpec(12, 12, 1),
        {},
    ),
    "biggan": (BIGGAN, ImageSpec(8, 8, 3, 3), {}),
    "stylegan2": (
        stylegan2.Stylegan2Config(
            latent_size=7,
            style_size=5,
            conditional=True,
            conv_clamp=0.0,
            generator=dataclasses.replace(STYLE_PLAYER, architecture="skip"),
            discriminator=dataclasses.replace(STYLE_PLAYER, channel_max=5),
        ),
        ImageSpec(16, 16, 3, 2),
        {"conv_clamp": 0.0},
    ),
    "vae": (
        vae.VaeConfig(hidden_sizes=(7,), latent_size=3, conditional=True, binarization="none"),
        ImageSpec(5, 5, 3, 4),
        {},
    ),
    "glow": (
        glow.GlowConfig(
            levels=2,
            steps_per_level=2,
            hidden_features=5,
            coupling="additive",
            permutation="plain",
            bits=5,
        ),
        ImageSpec(8, 4, 3),
        {"size": (8, 4), "bits": 5},
    ),
    "diffusion": (
        diffusion.DiffusionConfig(network=UNetConfig(features=(32,), blocks=1, attention_sizes=())),
        ImageSpec(6, 4, 3),
        {"size": (6, 4)},
    ),
}


def _state(family: str) -> Any:
    config, spec, _ = CASES[family]
    if family != "glow":
        return drawn_state(FAMILIES[family].init, config, spec)
    return glow.from_variables(config, spec, drawn_flow(config, spec, noise=0.1))


def _variables(family: str, state: Any) -> Any:
    """Return what the family's `load` gives."""
    if not FORMATS[family].is_gan:
        params = state.model.params
        return (
            glow.Variables(params, state.model.stats["constants"]) if family == "glow" else params
        )
    players = {"generator": state.generator, "discriminator": state.discriminator}
    if family == "gan":
        return {name: player.params for name, player in players.items()}
    variables = {name: player.variables for name, player in players.items()}
    if family == "stylegan2":
        variables["generator"] |= {"noise": stylegan2.draw_noise(KEY, state.spec, 1)}
    return variables


def _write(family: str, state: Any, folder: Path) -> list[Path]:
    """Write files as the other implementation's users have them, one for each player."""
    dumped = FORMATS[family].dump(*CASES[family][:2], _variables(family, state))
    arrays: dict[str, Any] = {k: np.asarray(array, np.float64) for k, array in dumped.items()}
    if not FORMATS[family].is_gan:
        np.savez(folder / "model.npz", **arrays)
        return [folder / "model.npz"]
    for letter in "GD":
        own: dict[str, Any] = {
            f"module.{k[2:]}": v for k, v in arrays.items() if k.startswith(letter)
        }
        np.savez(folder / f"{letter}.npz", **own)
    return [folder / "G.npz", folder / "D.npz"]


@pytest.mark.parametrize("family", CASES)
def test_sizes_are_inferred_and_weights_are_the_same(family, tmp_path):
    """With D's file the model can be trained on; without, the rest is the same."""
    config, spec, options = CASES[family]
    state = _state(family)
    files = _write(family, state, tmp_path)
    path = genjax.import_model(family, files, tmp_path / "m.safetensors", **options)
    found = genjax.load(path)
    assert (found.recipe.model, found.spec, found.step) == (config, spec, 0)
    assert found.class_names == tuple(map(str, range(spec.classes)))
    assert {array.dtype.name for array in read_arrays(path).values()} <= {
        "float32",
        "int32",
        "bool",
    }
    is_gan = FORMATS[family].is_gan
    expected = state if is_gan else state.for_sampling()
    chex.assert_trees_all_close(found.state, expected, rtol=2e-5, atol=2e-6)
    if is_gan:
        genjax.import_model(family, files[:1], path, **options)
        without = genjax.load(path)
        chex.assert_trees_all_equal(without.state, found.state.for_sampling())
        assert without.recipe.model.generator == config.generator
    with pytest.raises(UsageError, match=r"what data .* is not known: wanted --data DATA"):
        genjax.evaluate(found, n=10)


def test_a_checkpoint_of_pytorch_on_the_command_line(tmp_path, capsys, caplog):
    """The averaged weights, stored in half precision, draw what PyTorch drew from them.

    `torch.save` wrote the file in the format of a training: raw weights of a parallel module, their
    average, an optimizer with numbers as keys. "check" in it has noise and PyTorch's images.
    """
    path, png = tmp_path / "m.safetensors", tmp_path / "x.png"
    caplog.set_level(logging.INFO, "genjax")
    assert run(["import", "dcgan", str(CHECKPOINT), "-o", str(path), "--license", "MIT"]) == 0
    assert capsys.readouterr().out.strip() == str(path)
    assert "g_ema is taken, not state_dict, optimizer, check (--key)" in caplog.text
    assert "dcgan of 8x8x1 pixels" in caplog.text
    card = read_card(path)
    digest = hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest()
    assert card.origin == f"imported from torch_checkpoint.pth (sha256 {digest})"
    assert (card.license, card.data_digest, card.images) == ("MIT", None, None)
    check = read_arrays(CHECKPOINT, "check")
    found = genjax.load(path)
    draw = jax.jit(functools.partial(dcgan.decode, found.recipe.model))
    images = draw(found.state, jnp.asarray(check["z"]), np.zeros(3, np.int32))
    np.testing.assert_allclose(images, check["image"].transpose(0, 2, 3, 1), atol=2e-3)
    assert run(["sample", str(path), "-n", "4", "-o", str(png)]) == 0 and png.exists()
    raw = genjax.import_model("dcgan", [CHECKPOINT], path, key=("state_dict",))
    assert not np.array_equal(
        genjax.load(raw).state.ema["params"]["up_0"]["kernel"],
        found.state.ema["params"]["up_0"]["kernel"],
    )


@pytest.mark.parametrize(
    ("changes", "classes"),
    [
        ({"deep": True}, 3),
        ({"hierarchical": False}, 3),
        ({"conditional": False, "hierarchical": False}, 0),
    ],
    ids=str,
)
def test_every_biggan_is_inferred(changes, classes):
    config, spec = dataclasses.replace(BIGGAN, **changes), ImageSpec(16, 16, 1, classes)
    generator = dataclasses.replace(USUAL.generator, features=8, attention_resolutions=())
    config = dataclasses.replace(config, latent_size=9, generator=generator)
    shapes = abstract_state(genjax.Recipe(family="biggan", model=config), spec)
    players = {name: getattr(shapes, name).variables for name in ("generator", "discriminator")}
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), players)
    arrays = FORMATS["biggan"].dump(config, spec, variables)
    found, found_spec = FORMATS["biggan"].infer(arrays, {})
    size = config.shared_size if classes else found.shared_size
    assert found == dataclasses.replace(config, shared_size=size)
    assert found_spec == spec


def test_what_biggan_adds_to_variances_is_an_option(tmp_path):
    """More added to the variance is as much more variance, but in the last norm, as in theirs."""
    state = drawn_state(biggan.init, BIGGAN, CASES["biggan"][1])
    files = _write("biggan", state, tmp_path)[:1]
    draw = jax.jit(biggan.decode, static_argnums=0)
    z = jax.random.normal(KEY, (4, BIGGAN.latent_size))
    labels = np.arange(4, dtype=np.int32) % 3

    def images(file: Path, **options: Any) -> jax.Array:
        path = genjax.import_model("biggan", [file], tmp_path / "m.safetensors", **options)
        found = genjax.load(path)
        return draw(found.recipe.model, found.state, z, labels)

    arrays = read_arrays(files[0])
    for name in arrays:
        if name.endswith("stored_var"):
            arrays[name] = arrays[name] * 1e-3
    np.savez(tmp_path / "small.npz", **arrays)
    for name in arrays:
        if name.endswith("stored_var") and "output_layer" not in name:
            arrays[name] = arrays[name] + (1e-3 - 1e-5)
    np.savez(tmp_path / "shifted.npz", **arrays)
    usual = images(tmp_path / "small.npz")
    found = images(tmp_path / "small.npz", batch_norm_epsilon=1e-3)
    np.testing.assert_allclose(found, images(tmp_path / "shifted.npz"), atol=1e-5)
    assert abs(found - usual).max() > 0.01


def _fail(message: str, family: str, *files: Any, **options: Any) -> str:
    with pytest.raises(UsageError, match=message) as caught:
        genjax.import_model(family, files, options.pop("output", "m.safetensors"), **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    return str(caught.value)


def test_what_the_arrays_leave_open_is_asked_for_by_name(tmp_path):
    state = _state("glow")
    (model,) = _write("glow", state, tmp_path)
    _fail(r"what images they are for: say --size HEIGHT WIDTH, --bits N", "glow", model)
    _fail(r"say --bits N", "glow", model, size=(8, 4))
    arrays = read_arrays(model)
    np.savez(model, **arrays | {"blocks.1.flows.0.actnorm.initialized": np.zeros((), np.uint8)})
    _fail("blocks.1.flows.0.actnorm.initialized is 0", "glow", model, size=(8, 4), bits=5)
    generator, _ = _write("wgan", _state("wgan"), tmp_path)
    _fail(r"images of 72 values are not square: say --size", "wgan", generator)
    _fail(r"size = 5 6: the arrays are of images of 72 values", "wgan", generator, size=(5, 6))


def test_mistakes_are_named(tmp_path):
    state = _state("dcgan")
    files = _write("dcgan", state, tmp_path)
    _fail("family 'pix2pix': wanted gan, dcgan", "pix2pix", files[0])
    _fail("3 files: of dcgan wanted that of G, and perhaps that of D", "dcgan", *files, files[0])
    _fail("2 files: of vae wanted one", "vae", *files)
    _fail("key = a b: wanted one for each of 1 files", "dcgan", files[0], key=("a", "b"))
    _fail("bits = 5: an option of glow, not of dcgan", "dcgan", files[0], bits=5)
    _fail(r"classes = 3: the arrays of D are for 2", "dcgan", *files, classes=3)
    _fail(r"no file .*none\.pth", "dcgan", tmp_path / "none.pth")
    _fail("should end in .safetensors", "dcgan", files[0], output="m.pth")
    _fail("it has no key 'ema'", "dcgan", files[0], key=("ema",))
    _fail(r"G\.npz as vae: there is no fc1\.weight among 11 arrays", "vae", files[0])
    _fail(r"as biggan: G has 0 blocks", "biggan", files[0])
    _fail(r"those of D come second$", "dcgan", *files[::-1], classes=2)
    _fail(r"channels more than G draws: if they are classes, say --classes 2$", "dcgan", *files)
    (tmp_path / "gan").mkdir()
    of_digits = _write("gan", _state("gan"), tmp_path / "gan")
    _fail("draws one number: are these arrays of D", "gan", *of_digits[::-1])
    arrays = read_arrays(files[0])
    arrays["main.1.bias"][2] = np.inf
    np.savez(tmp_path / "inf.npz", **arrays)
    _fail(
        r"1 arrays have values that are not finite: G\.main\.1\.bias", "dcgan", tmp_path / "inf.npz"
    )


def test_what_does_not_fit_is_summed_up(tmp_path):
    """Not hundreds of names on one line: counts, and the first three of each kind."""
    files = _write("stylegan2", _state("stylegan2"), tmp_path)
    arrays = read_arrays(files[0])
    for name in list(arrays):
        if "noise" in name:  # use_noise = False
            del arrays[name]
        elif name.endswith("affine.bias"):
            arrays[f"{name}.other"] = arrays.pop(name)
    arrays["mapping.fc1.bias"] = np.zeros(9)
    np.savez(files[0], **arrays)
    message = _fail("these parameters do not fit the config", "stylegan2", files[0])
    for part in (
        "18 missing: G.synthesis.b4.conv1.noise_const (4, 4), ",
        "8 unknown: G.",
        " and 5 more; 1 misshapen: G.mapping.fc1.bias (9,), wanted (5,)",
    ):
        assert part in message


def test_networks_that_no_config_describes_are_refused(tmp_path):
    files = _write("biggan", _state("biggan"), tmp_path)
    arrays = read_arrays(files[0])
    others = {
        r"G_shared = False is not known": {k: v for k, v in arrays.items() if "shared" not in k},
        r"unknown: .*\.u1": arrays | {"linear.u1": np.zeros((1, 32))},  # num_G_SVs = 2
        r"missing: .*stored_mean": {k: v for k, v in arrays.items() if "stored" not in k},
    }
    for message, found in others.items():
        np.savez(files[0], **found)
        _fail(message, "biggan", files[0])
    files = _write("stylegan2", _state("stylegan2"), tmp_path)
    arrays = read_arrays(files[0])
    arrays["synthesis.b8.conv0.resample_filter"] = np.ones((2, 2)) / 4
    np.savez(files[0], **arrays)
    _fail(r"another filter than \[1, 3, 3, 1\]", "stylegan2", files[0])


def test_a_file_that_holds_code_says_how_to_get_its_weights_out(tmp_path):
    path = tmp_path / "network.pkl"
    path.write_bytes(pickle.dumps({"G_ema": argparse.Namespace(z_dim=512)}))
    unpack = (
        r'this gets its weights out in Python: torch\.save\(legacy\.load_network_pkl\(.*\["G_ema"\]'
    )
    _fail(rf"argparse\.Namespace is refused.*{unpack}", "stylegan2", path)
    _fail(r"if you trust the file.*: torch\.save\(torch\.load\(", "dcgan", path)


def test_names_and_types_of_other_files(tmp_path):
    """Flat names with a prefix, bfloat16, and both players in one file."""
    generator, discriminator = _write("wgan_gp", _state("wgan_gp"), tmp_path)
    one = {
        f"{start}.{name}": array.astype(ml_dtypes.bfloat16)
        for start, file in (("netG", generator), ("netG_ema", generator), ("netD", discriminator))
        for name, array in read_arrays(file).items()
    }
    one = {k: np.ascontiguousarray(v * 2 if "netG." in k else v) for k, v in one.items()}
    save_file(one, tmp_path / "one.safetensors")
    files = [tmp_path / "one.safetensors"] * 2
    path = genjax.import_model("wgan_gp", files, tmp_path / "m.safetensors")
    found, expected = genjax.load(path).state, _state("wgan_gp")
    for name in ("generator", "discriminator"):
        pair = (getattr(state, name).params for state in (found, expected))
        chex.assert_trees_all_close(*pair, rtol=1e-2)
    assert found.generator.params["project"]["kernel"].dtype == np.float32


def test_files_beside_the_weights_of_diffusion_say_the_rest(tmp_path, caplog):
    files = _write("diffusion", _state("diffusion"), tmp_path)
    config, scheduler = tmp_path / "config.json", tmp_path / "scheduler_config.json"
    config.write_text(json.dumps({"sample_size": [6, 4], "norm_eps": 1e-4}))
    scheduler.write_text(
        json.dumps({"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"})
    )
    path = tmp_path / "model.safetensors"
    given = ["--config", str(config), "--scheduler", str(scheduler), "-o", str(path)]
    caplog.set_level(logging.INFO)
    assert run(["import", "diffusion", str(files[0]), *given[:2], "-o", str(path)]) == 0
    assert "noise prediction on DDPM's linear schedule (--scheduler)" in caplog.text
    caplog.clear()
    assert run(["import", "diffusion", str(files[0]), *given]) == 0
    assert "taken as usual" not in caplog.text
    found = genjax.load(path)
    model = found.recipe.model
    assert (model.path, model.prediction, model.network.epsilon) == ("cosine", "velocity", 1e-4)
    assert found.spec == CASES["diffusion"][1]
    for text, reason in {"{": "cannot be read", "[1]": "is no object of names and values"}.items():
        scheduler.write_text(text)
        with pytest.raises(UsageError, match=f"scheduler {scheduler}: {reason}"):
            run(["import", "diffusion", str(files[0]), *given])
