import inspect
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import chex
import numpy as np
import pytest
from PIL import Image

import genjax
from genjax import cli
from genjax.cli import bench, evaluation, figures, training
from genjax.cli.overview import USAGE
from genjax.cli.run import COMMANDS
from genjax.run.trained import load
from tests import commands

TINY = ["--size", "8", "--steps", "10", "--batch-size", "16", "--log-interval", "5"]
TINY += ["--save-interval", "5"]


HOOKS = ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook"))


@pytest.fixture
def genjax_command(monkeypatch, capsys):
    """Run a command line in this process; return its exit code, output and error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["genjax", *map(str, arguments)])
        for module, hook in HOOKS:  # which it replaces
            monkeypatch.setattr(module, hook, getattr(module, hook))
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, err

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("cli") / "run"
    recipe = genjax.load_recipe("gan_digits")
    fields = {"steps": 10, "batch_size": 16, "log_interval": 5, "save_interval": 5}
    genjax.train(genjax.Recipe(family="gan", model=recipe.model, **fields), run)
    return run


def test_a_first_session(genjax_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = genjax_command("train", "gan_digits", *TINY)
    assert code == 0
    assert "samples  runs/gan_digits/samples/step_00000010.png" in out
    assert (tmp_path / "runs/gan_digits/curves.png").exists()
    code, out, err = genjax_command("resume", "runs/gan_digits", "--steps", "20")
    assert code == 0
    assert "of 20 steps" in out
    assert "step 20 of 20" in err
    code, _, _ = genjax_command("sample", "runs/gan_digits", "-n", 9, "--seed", 1, "-o", "g.png")
    assert code == 0
    with Image.open("g.png") as grid:
        assert grid.size[0] == grid.size[1] > 100
    assert genjax_command("sample", "runs/gan_digits", "-n", 9, "-o", "a.npy")[0] == 0
    assert np.load("a.npy").shape == (9, 8, 8, 1)


@pytest.mark.slow
def test_a_session_with_a_vae(genjax_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = [*TINY, "--latent-size", "2"]
    assert genjax_command("train", "vae_digits", *tiny)[0] == 0
    run = "runs/vae_digits"
    code, out, err = genjax_command("evaluate", run, "--importance-samples", 5, "-n", 50)
    assert code == 0
    assert json.loads(out)["protocol"]["importance_samples"] == 5
    assert "360 images of train[80%:], step" in err
    for command, shape in (
        (("reconstruct", run, "-n", 20), (4, 16, 8, 8, 1)),  # two rows of 16, each with its copies
        (("interpolate", run, "-n", 2, "--steps", 5), (2, 5, 8, 8, 1)),
        (("traverse", run, "-n", 2, "--steps", 3), (2, 3, 8, 8, 1)),
        (("manifold", run, "-n", 4), (4, 4, 8, 8, 1)),
        (("manipulate", run, "--to", 3, "--from", 7, "-n", 2, "--steps", 3), (2, 3, 8, 8, 1)),
    ):
        assert genjax_command(*command, "-o", "images.npy")[0] == 0
        assert np.load("images.npy").shape == shape
        assert genjax_command(*command)[0] == 0
    for name in (
        "reconstructions",
        "interpolations",
        "traversals",
        "manifold",
        "manipulations",
    ):
        with Image.open(f"{name}.png") as grid:
            assert grid.size[0] > 100


def test_list_and_show(genjax_command):
    code, out, _ = genjax_command("list")
    assert code == 0
    assert "gan_digits" in out
    assert "Goodfellow et al. 2014" in out
    options = ("--generator.learning-rate", "1e-3", "--size", "8", "10", "--batch-size", "32")
    code, out, _ = genjax_command("show", "gan_digits", *options)
    assert code == 0
    values = json.loads(out)
    assert values["model"]["generator"]["learning_rate"] == 1e-3
    assert values["data_options"]["size"] == [8, 10]
    assert values["batch_size"] == 32


def test_inspect(genjax_command, tmp_path):
    for name, size in (("a/1.png", (6, 4)), ("a/2.png", (6, 4)), ("b/3.png", (5, 5))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", size, "red").save(tmp_path / name)
    (tmp_path / "b/4.png").write_bytes(b"junk")
    grid = tmp_path / "grid.png"
    code, out, _ = genjax_command("inspect", f"folder:{tmp_path}", "-o", grid)
    assert code == 0
    for part in (
        "3, and 1 broken",
        "4 x 6 (2), 5 x 5 (1)",
        "RGB (3)",
        "2: a (2), b (1)",
        "b/4.png: not an image",
        "give --size",
    ):
        assert part in out
    assert grid.exists()
    code, out, _ = genjax_command("inspect", "digits", "-o", grid)
    assert "1,797, and 0 broken" in out
    assert "8 x 8, 1 channel" in out


def test_prepared_data_are_data_like_any_other(genjax_command, tmp_path, monkeypatch):
    file, run = tmp_path / "digits.array_record", tmp_path / "run"
    command = ("prepare", "digits", "-o", file, "--split", "train[:20%]", "--size", 8)
    with monkeypatch.context() as patch:

        def stop(*arguments):
            raise KeyboardInterrupt

        patch.setattr("genjax.data.prepare._decode", stop)
        code, _, err = genjax_command(*command)
    assert code == 130
    assert f"stopped; the same command goes on with {file}" in err
    code, out, _ = genjax_command(*command)
    assert (code, out.startswith(f"{file}: 359 images of (8, 8, 1), ")) == (0, True)
    # From here on its options are those of other data: a split of it, another size.
    options = (*TINY, "--data", file, "--test-split", "train[80%:]", "--resident-gib", 0)
    code, _, err = genjax_command("train", "gan_digits", *options, "--run", run)
    assert code == 0, err
    assert "prepared from digits" in (run / "log.txt").read_text()
    assert genjax_command("inspect", file, "-o", tmp_path / "grid.png")[0] == 0
    file.write_bytes(file.read_bytes()[:-10])
    code, _, err = genjax_command("resume", run, "--steps", 20)
    assert code == 2
    assert f"{file} is no file of genjax prepare, or damaged or cut short" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "command", [[], ["--help"], ["train", "--help"], ["resume", "--help"], ["sample", "-h"]]
)
def test_help_goes_to_standard_output(genjax_command, command):
    code, out, err = genjax_command(*command)
    assert code == (0 if command else 2)
    assert "usage: genjax" in out
    assert err == ""


def test_the_overview_has_the_first_line_of_each_command():
    measured = {f"bench {kind}": command for kind, command in bench.COMMANDS.items()}
    commands = training.RECIPE_COMMANDS | COMMANDS | measured
    lines = [
        f"  {f'{name} {command.argument}':17}{command.description.splitlines()[0]}"
        for name, command in commands.items()
    ]
    assert [line for line in USAGE.splitlines() if line.startswith("  ")] == lines


@pytest.mark.parametrize("arguments", [[], ["--help"], ["list"]])
def test_the_overview_needs_no_jax(arguments):
    code = (
        "import atexit, sys; from genjax.cli import main\n"
        "atexit.register(lambda: print('jax' in sys.modules, 'numpy' in sys.modules))\n"
        "main()"
    )
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert ended.returncode == (0 if arguments else 2) and not ended.stderr
    *lines, modules = ended.stdout.splitlines()
    assert len(lines) > 30 and modules == "False False"


@pytest.mark.parametrize("columns", ["1", "5", "39"])
def test_help_in_a_narrow_terminal_comes_to_an_end(genjax_command, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    code, out, _ = genjax_command("train", "--help")
    assert code == 0
    assert "--steps" in out


def test_help_says_what_an_option_does_and_its_default(genjax_command):
    _, out, _ = genjax_command("train", "--help")
    text = " ".join(out.replace("│", " ").split())
    assert "--steps INT Training steps. (default: 12000)" in text
    assert "--generator.learning-rate FLOAT Step size: the largest, if the schedule" in text
    assert "--loss {non_saturating,saturating,least_squares,hinge,relativistic}" in text


def test_help_breaks_lines_where_the_terminal_ends_only(genjax_command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = genjax_command("sample", "--help")
    assert "conditional model with up to 20 classes. (default:" in out


BAD = {
    "frobnicate": "no command 'frobnicate': wanted train, ",
    "train": "the recipe comes first",
    "train --steps 5": "the recipe comes first",
    "train gan_digit": "did you mean gan_digits?",
    "train none.py": "no recipe file none.py",
    "train gan_digits extra": "Unrecognized options: extra",
    "train gan_digits --step 5": "perhaps you meant --steps",
    "train gan_digits --steps": "--steps",
    "train gan_digits --steps many": "--steps: invalid literal for int() with base 10: 'many'",
    "train gan_digits --steps -3": "steps = -3: should be greater than 0",
    "train gan_digits --generator.learning-rate -1": "generator.learning_rate = -1.0",
    "train gan_digits --discriminator.beta1 1": "discriminator.beta1 = 1.0: should be less than 1",
    "train gan_digits --loss cubic": "'cubic'",
    "train gan_digits --size 1 2 3": "size = (1, 2, 3): wanted HEIGHT",
    "train gan_digits --save-interval 150": "150 must be a multiple of log_interval 100",
    "train gan_digits --batch-size 12": "8 devices, as with --batch-size 8 or --batch-size 16",
    "train gan_digits --data cifar": "wanted digits, tfds:NAME, hf:NAME, folder:PATH, PATH.zip",
    "train gan_digits --data folder:/no/such": "no folder /no/such",
    "train gan_digits --data tfds:no_such_data": "no data set 'no_such_data'",
    "train dcgan_digits --size 30": "images of 30x30: these networks halve",
    "train wgan_gp_digits --n-critic 0": "n_critic = 0: should be greater than 0",
    "train wgan_gp_digits --network vgg": "vgg",
    "train gan_digits --run RUN": "to go on with it: genjax resume",
    "train gan_digits --run /dev/null/run": "/dev/null/run",
    "resume /no/such/run": "is not a run folder",
    "resume": "RUN",
    "sample RUN -n 0": "n = 0: should be at least 1",
    "sample RUN -o grid.gif": "should end in .png or .jpg (a grid), .npy",
    "sample RUN -o /no/such/grid.png": "no folder /no/such",
    "sample RUN --checkpoint 7": "no good checkpoint 7: it has 5, 10",
    "sample RUN --checkpoint first": "first",
    "inspect nothing": "data 'nothing' is unknown",
    "train vae_digits --likelihood normal": "binarization = 'dynamic': with likelihood 'normal'",
    "train vae_digits --bound iwae --beta 2": "beta = 2.0: the bound 'iwae' has none",
    "train vae_digits --split test": "digits has no split 'test'",
    "train vae_digits --test-split test": "digits has no split 'test'",
    "train vae_digits --network resnet --size 30": "images of 30x30: these networks halve",
    "evaluate RUN -n 3": "n = 3: should be from 6 to",
    "evaluate RUN --likelihood-images 0": "likelihood_images = 0: should be from 1",
    "evaluate RUN --importance-samples 0": "importance_samples = 0: should be from 1",
    "evaluate RUN -n 10 --temperature 0.5": "family 'gan' has no temperature",
    "sample RUN --truncation 0.5": "family 'gan' has no truncation; wanted a run of biggan",
    "sample RUN --label 3": "the model is not conditional",
    "tradeoff RUN": "family 'gan' has no truncation, temperature, sampling_steps",
    "tradeoff RUN -o curve.jpg": "should end in .png",
    "train biggan_digits --latent-size 50": "latent_size = 50: should be a multiple of 3",
    "evaluate RUN --extractor inception": "no Inception weights at",
    "evaluate RUN --extractor inception --weights none.pth": "none.pth",
    "evaluate RUN --weights none.pth": "--extractor inception",
    "evaluate RUN --extractor vgg": "extractor",
    "sample RUN --temperature 0.5": "family 'gan' has no temperature",
    "manipulate RUN --to 3": "family 'gan' has no encoder",
    "manipulate RUN": "--to",
    "train glow_digits --size 9": "images of 9x9: with levels = 2 both should be multiples of 4",
    "train glow_digits --optimizer.decay-steps 50": "decay_steps = 50: should be more than warmup",
    "train glow_digits --bits 9": "bits = 9: should be less than or equal to 8",
    "evaluate /no/such/run": "is not a run folder",
    "reconstruct RUN": "family 'gan' has no encoder",
    "traverse RUN": "family 'gan' has no encoder",
    "manifold RUN": "latent_size = 16; a manifold is drawn of 2",
    "score RUN": "family 'gan' has no likelihood; wanted a run of vae, glow",
    "classify RUN": "family 'gan' has no likelihood",
    "encode RUN": "family 'gan' has no encoder",
    "interpolate RUN --images a.png": "family 'gan' has no encoder",
    "interpolate RUN -n 0": "n = 0: should be at least 1",
    "interpolate RUN --steps 1": "steps = 1: should be at least 2",
    "interpolate RUN --path curved": "curved",
    "interpolate RUN -o path.mp4": "should end in .png or .jpg (a grid), .npy",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_gets_one_line_and_an_exit_code(
    genjax_command, line, trained, tmp_path, eight_devices
):
    arguments = line.replace("RUN", str(trained)).split()
    if arguments[0] == "train" and arguments[1:2] and "--run" not in arguments:
        arguments += ["--run", str(tmp_path / "run")]
    with eight_devices():  # among which a batch may not divide
        code, _, err = genjax_command(*arguments)
    assert code in (1, 2)
    *progress, error = err.strip().splitlines()
    assert error.startswith("genjax: error: ")
    assert BAD[line].upper() in error.upper()
    assert all(text.startswith(("reading", "10 classes: ")) for text in progress)


def test_a_hub_that_cannot_be_reached_gets_one_line(tmp_path):
    environment = _environment(tmp_path) | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    path = "hf://owner/repository/model.safetensors"
    process = commands.start("sample", path, "-n", "2", environment=environment)
    _, err = process.communicate(timeout=300)
    (line,) = err.strip().splitlines()
    assert process.returncode == 1
    assert line.startswith("genjax: error: a bucket or hub cannot be read or written: Connect")


def _environment(tmp_path):
    """Return the variable for a cache of compiled programs that processes share."""
    return {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "xla")}


def _start(tmp_path, *arguments):
    return commands.start(*arguments, environment=_environment(tmp_path))


def _results(run: Path):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    timings = ("seconds", "steps_per_second", "images_per_second")
    records = [json.loads(line) for line in lines]
    return [{k: v for k, v in record.items() if k not in timings} for record in records]


LONG = [*TINY[:2], "--steps", "600", "--batch-size", "16", "--log-interval", "20"]
LONG += ["--save-interval", "20"]


@pytest.mark.slow
def test_killed_at_random_times_a_run_ends_as_if_it_never_was(tmp_path):
    """Kill a run with SIGKILL, also during a save; it saves every 20 steps of 2 ms."""
    whole = _start(tmp_path, "train", "gan_digits", *LONG, "--run", tmp_path / "whole")
    _, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err
    kills = int(os.environ.get("GENJAX_TEST_KILLS", "4"))
    rng = np.random.default_rng(0)
    run = tmp_path / "killed"
    process = _start(tmp_path, "train", "gan_digits", *LONG, "--run", run)
    for _ in range(kills):
        commands.wait_for(run / "config.json", process)
        try:
            process.wait(rng.uniform(0, 8))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        process = _start(tmp_path, "resume", run)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert _results(run) == _results(tmp_path / "whole")
    a, b = (load(path, "latest") for path in (run, tmp_path / "whole"))
    assert a.step == b.step == 600
    chex.assert_trees_all_equal(a.state, b.state)


def test_a_reader_that_stops_reading_is_no_error(tmp_path):
    process = _start(tmp_path, "list")
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(60) == 128 + signal.SIGPIPE


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    run = tmp_path / "run"
    long = [*LONG, "--steps", "1000000", "--save-interval", "1000000"]
    process = _start(tmp_path, "train", "gan_digits", *long, "--run", run)
    commands.wait_for(run / "metrics.jsonl", process)
    while len((run / "metrics.jsonl").read_text().splitlines()) < 3:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    step = _results(run)[-1]["step"]
    assert f"stopped and saved at step {step}; to go on: genjax resume {run}" in out
    assert (run / "checkpoints" / f"{step:08d}" / "sha256.json").exists()


def _seeded():
    """Functions behind commands that take a seed."""
    commands = (figures.COMMANDS | evaluation.COMMANDS).items()
    found = {name: getattr(genjax, name) for name, _ in commands if hasattr(genjax, name)}
    return [f for f in found.values() if "seed" in inspect.signature(f).parameters]


@pytest.mark.parametrize("function", _seeded(), ids=lambda function: function.__name__)
@pytest.mark.parametrize("seed", [-1, 2**32, 10**19])
def test_a_seed_out_of_range_is_refused_before_anything_is_read(function, seed):
    needed = {genjax.manipulate: {"to": 1}, genjax.fidelity: {"reference": "digits"}}
    arguments = needed.get(function, {})
    with pytest.raises(genjax.UsageError, match=f"seed = {seed}: should be from 0 to 4294967295"):
        function("/no/such/run", seed=seed, **arguments)


def test_every_command_with_a_seed_is_tested():
    assert len(_seeded()) == 13


def test_samples_are_written_one_by_one(genjax_command, trained, tmp_path):
    for name in ("out", "out.zip"):
        assert genjax_command("sample", trained, "-n", 70, "-o", tmp_path / name)[0] == 0
    singles = [np.asarray(Image.open(tmp_path / f"out/{i:08d}.png")) for i in range(70)]
    np.testing.assert_array_equal(np.stack(singles)[..., None], genjax.sample(trained, 70))
    code, _, err = genjax_command("sample", trained, "-o", tmp_path / "out")
    assert code == 2 and "not empty" in err
    code, out, _ = genjax_command("inspect", tmp_path / "out.zip", "-o", tmp_path / "grid.PNG")
    assert code == 0 and "classes   none" in out


def test_resume_takes_the_options_of_the_run(genjax_command, tmp_path):
    run = tmp_path / "run"
    options = ["--generator.hidden-sizes", "24"]
    assert genjax_command("train", "gan_digits", *TINY, *options, "--run", run)[0] == 0
    code, _, err = genjax_command("resume", run, "--generator.hidden-sizes", "32", "--steps", 20)
    assert code == 2 and "generator.hidden_sizes = [32] (was [24])" in err and "genjax train" in err
    changes = ["--batch-size", "32", "--generator.learning-rate", "5e-5", "--log-interval", "1"]
    code, _, err = genjax_command("resume", run, "--steps", 15, *changes)
    assert code == 0 and "from step 10 on: generator.learning_rate = 5e-05 (was 0.001)" in err
    recipe = json.loads((run / "config.json").read_text())["recipe"]
    assert (recipe["batch_size"], recipe["steps"]) == (32, 15)
    assert recipe["model"]["generator"] == {
        **recipe["model"]["generator"],
        "learning_rate": 5e-5,
        "hidden_sizes": [24],
    }
    assert [record["step"] for record in _results(run)] == [5, 10, 11, 12, 13, 14, 15]
    assert "batch_size = 32 (was 16)" in (run / "log.txt").read_text()
    code, _, err = genjax_command("resume", "--steps", 20, run)
    assert code == 2 and "the run comes first" in err
