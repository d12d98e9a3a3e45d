"""Signals that end a training, and terminals that are gone while it goes on."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest

import genjax
from genjax.models.gan import GanConfig
from genjax.run.checkpoint import find_damage
from genjax.run.folder import RunFolder
from genjax.trainer import loop
from genjax.trainer.signals import Stopped, stop_signals
from tests import commands

RECIPE = genjax.Recipe(
    family="gan", model=GanConfig(), steps=20, batch_size=16, log_interval=5, save_interval=10
)
ENDLESS = ["--size", 8, "--batch-size", 16, "--steps", 10**6, "--log-interval", 20]
ENDLESS += ["--save-interval", 10**6]


def test_the_first_signal_asks_and_the_second_stops_at_once(stop_signal):
    with stop_signals() as stop:
        stop.begin()
        os.kill(os.getpid(), stop_signal)
        assert stop.signal == stop_signal
        if stop_signal == signal.SIGHUP:  # a terminal that is closed sends it twice
            os.kill(os.getpid(), stop_signal)
        else:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), stop_signal)
                time.sleep(1)
    assert signal.getsignal(stop_signal) is signal.default_int_handler


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_terminal_that_is_closed_does_not_cut_a_save_short(first):
    with stop_signals() as stop:
        stop.begin()
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), signal.SIGHUP)  # by default it would end this process
        assert stop.signal == first


def test_nohup_is_honoured():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as stop:
            stop.begin()
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signal is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    "where", ["_open", "abstract_state", "initial_state", "Writer", "call_length"]
)
def test_a_signal_before_the_first_step_stops_at_once_and_leaves_nothing(
    tmp_path, monkeypatch, where, stop_signal
):
    def interrupted(*args):
        os.kill(os.getpid(), stop_signal)
        time.sleep(10)

    monkeypatch.setattr(loop, where, interrupted)
    with pytest.raises(Stopped) as stopped:
        genjax.train(RECIPE, tmp_path / "run")
    assert stopped.value.signal == stop_signal
    assert not (tmp_path / "run").exists()


def test_a_signal_that_is_swallowed_in_start_up_still_stops(tmp_path, monkeypatch, stop_signal):
    """As by a function of Python that C++ called."""
    initial_state = loop.initial_state

    def swallows(*args):
        with pytest.raises(Stopped):
            os.kill(os.getpid(), stop_signal)
            time.sleep(10)
        return initial_state(*args)

    monkeypatch.setattr(loop, "initial_state", swallows)
    monkeypatch.setattr(loop, "_take_steps", None)
    with pytest.raises(Stopped):
        genjax.train(RECIPE, tmp_path / "run")


# Tests may run in a shell's background, where it is ignored.
HEARD = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
INTERRUPTED_AT_IMPORT = """
import os, signal, sys
from genjax.cli import main

module = sys.argv.pop(1)

def interrupt(event, arguments):
    if event == "import" and arguments[0] == module:
        os.kill(os.getpid(), signal.SIGINT)

sys.addaudithook(interrupt)
main()
"""


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("genjax.cli.overview", ["--help"]),
        ("jax", ["train", "gan_digits_paper"]),
        ("numpy._core._multiarray_umath", ["sample", "run"]),  # an extension module
        ("pydantic", ["list", "--help"]),
        ("genjax.trainer.loop", ["sample", "run"]),
        ("datasets", ["train", "gan_mnist", "--data", "hf:none/such"]),  # when the data are opened
    ],
)
def test_ctrl_c_while_modules_are_imported_ends_in_one_line(tmp_path, module, arguments):
    code = HEARD + INTERRUPTED_AT_IMPORT
    command = [sys.executable, "-c", code, module, *arguments]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 128 + signal.SIGINT
    (line,) = ended.stderr.splitlines()
    assert line.startswith("genjax: error: ") and "stopped" in line
    assert not list(tmp_path.iterdir())


def test_where_ctrl_c_is_ignored_an_import_does_not_change_that():
    """As in a shell's background."""
    command = [sys.executable, "-c", INTERRUPTED_AT_IMPORT, "jax", "list"]
    command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command]
    assert subprocess.run(command, capture_output=True).returncode == 0


def _records(run):
    path = run / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def _wait_for_records(run, count, process):
    end = time.monotonic() + commands.PATIENCE
    while len(_records(run)) < count:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)


def _saved(run):
    folder = RunFolder(run)
    (checkpoint,) = sorted(folder.checkpoints.iterdir())
    assert find_damage(checkpoint, folder.read_config().id) is None
    return int(checkpoint.name)


# The tests themselves may run under nohup, which is inherited.
LOGIN = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.login_tty(0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def _on_a_terminal(command):
    """Start a command on a terminal of its own; return the process and the terminal."""
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", LOGIN, *command], stdin=end, stdout=end, stderr=end
    )
    os.close(end)
    return process, terminal


def test_a_closed_terminal_saves_and_stops(tmp_path):
    run = tmp_path / "run"
    process, terminal = _on_a_terminal(
        commands.genjax("train", "gan_digits_paper", *ENDLESS, "--run", run)
    )
    _wait_for_records(run, 2, process)
    os.close(terminal)
    assert process.wait(commands.PATIENCE) == 128 + signal.SIGHUP
    assert _saved(run) == 20 * len(_records(run))


@pytest.mark.slow
def test_a_terminal_that_is_gone_under_nohup_does_not_end_a_training(tmp_path):
    """Neither the progress bar nor the messages; a SIGTERM then saves."""
    run = tmp_path / "run"
    nohup = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"]
    process, terminal = _on_a_terminal(
        [*nohup, *commands.genjax("train", "gan_digits_paper", *ENDLESS, "--run", run)]
    )
    _wait_for_records(run, 2, process)
    os.close(terminal)
    _wait_for_records(run, len(_records(run)) + 10, process)
    process.terminate()
    assert process.wait(commands.PATIENCE) == 128 + signal.SIGTERM
    assert _saved(run) == 20 * len(_records(run))


STREAMS = {
    "closed": ">&- 2>&-",
    "full": ">/dev/full 2>/dev/full",
    "ascii": ">out 2>err",
    "all closed": "<&- >&- 2>&-",
}


@pytest.mark.parametrize(
    "kind",
    [kind if kind == "closed" else pytest.param(kind, marks=pytest.mark.slow) for kind in STREAMS],
)
def test_closed_full_or_ascii_streams_do_not_end_a_training(tmp_path, kind):
    run = tmp_path / "größe"
    options = ["--size", 8, "--batch-size", 16, "--steps", 20, "--log-interval", 10]
    options += ["--save-interval", 10, "--generator.learning-rate", 0.1]  # with warnings
    command = commands.genjax("train", "gan_digits_paper", *options, "--run", run)
    process = subprocess.run(
        ["sh", "-c", f'"$@" {STREAMS[kind]}', "sh", *command],
        env=os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
        cwd=tmp_path,
    )
    assert process.returncode == 0
    checkpoints = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert checkpoints == ["00000010", "00000020"]
    assert "training in" in (run / "log.txt").read_text(encoding="utf-8")
    if kind == "ascii":
        assert "Traceback" not in (tmp_path / "err").read_text()
        assert "gr??e" in (tmp_path / "out").read_text()
