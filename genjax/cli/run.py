"""The command line of `genjax`, run to its end.

A user's mistake ends with one line on standard error and exit code 2, a run that failed with
code 1, an interrupted one with 128 plus the number of the signal.
"""

import logging
import os
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import jax
from pydantic import ValidationError
from tqdm import tqdm

from genjax.cli import bench, evaluation, figures, training
from genjax.cli.command import Command
from genjax.cli.overview import HELP, answer
from genjax.console import console, finish, printable
from genjax.data.processes import ProcessLost, is_joined
from genjax.evaluation.extractor import cache_folder
from genjax.exchange.export import describe as describe_model
from genjax.run.checkpoint import SaveError
from genjax.run.folder import RunFolder
from genjax.run.model_file import is_model_file, read_card
from genjax.run.recipe import load_recipe
from genjax.run.shipped import recipe_paths
from genjax.run.trained import is_trained, path_of
from genjax.trainer.loop import Diverged
from genjax.trainer.signals import Stopped
from genjax.types import UsageError, describe

# The recipe whose options `genjax train --help` shows.
EXAMPLE = "gan_digits"
# Packages of buckets and hubs, whose errors are of many kinds.
STORES = {
    *("aiobotocore", "aiohttp", "botocore", "fsspec", "gcsfs", "httpcore", "httpx", "httpx2"),
    *("huggingface_hub", "requests", "s3fs"),
}
# Columns of a terminal for which help is laid out.
FEWEST_COLUMNS = 40
# Programs that take longer to compile are cached. With jax's own limit of a second, the several
# small ones of each command would be compiled every time.
SECONDS_TO_CACHE = 0.1
COMMANDS = training.COMMANDS | figures.COMMANDS | evaluation.COMMANDS


# `genjax show` of a trained model in place of a recipe.
SHOW_MODEL = Command(describe_model)


def run(arguments: list[str]) -> int:
    """Run a command line, and return its exit code."""
    if (text := answer(arguments)) is not None:
        print(text)
        return 0 if arguments else 2
    name, *rest = _without_recipe(arguments)
    if name in training.RECIPE_COMMANDS:
        return _run_with_recipe(name, rest)
    if name == "resume":
        return _run_resume(rest)
    if name == "bench":
        kind, *rest = rest or [""]
        if kind not in bench.COMMANDS:
            given = repr(kind) if kind else "nothing"
            raise UsageError(f"bench {given}: wanted {', '.join(bench.COMMANDS)}")
        return bench.COMMANDS[kind].run(f"bench {kind}", rest)
    if name not in COMMANDS:
        commands = ", ".join([*training.RECIPE_COMMANDS, *COMMANDS, "bench"])
        raise UsageError(f"no command {name!r}: wanted {commands}")
    return COMMANDS[name].run(name, rest)


def _without_recipe(arguments: list[str]) -> list[str]:
    """Run the file of each `--recipe FILE`, and return the other arguments."""
    others, rest = [], iter(arguments)
    for argument in rest:
        option, equals, file = argument.partition("=")
        if option != "--recipe":
            others.append(argument)
            continue
        path = file if equals else next(rest, "")
        if not path.endswith(".py"):
            raise UsageError(f"--recipe {path}: wanted the .py file that registers the family")
        load_recipe(path)
    return others


def _run_with_recipe(name: str, arguments: list[str]) -> int:
    if arguments and arguments[0] in HELP:
        print(f"genjax {name} RECIPE [options]: the options of {EXAMPLE}, for example\n")
        arguments = [EXAMPLE, *arguments]
    if not arguments or arguments[0].startswith("-"):
        raise UsageError(f"the recipe comes first: genjax {name} RECIPE [options]")
    recipe, *options = arguments
    if name == "show" and recipe not in recipe_paths() and is_trained(path_of(recipe)):
        return SHOW_MODEL.run(name, [str(path_of(recipe)), *options])
    command = training.RECIPE_COMMANDS[name]
    return command.run(f"{name} {recipe}", options, recipe=load_recipe(recipe))


def _run_resume(arguments: list[str]) -> int:
    """Run `resume`, whose options are those of the run's recipe."""
    if arguments and arguments[0] in HELP:
        print(f"genjax resume RUN [options]: the options of a run of {EXAMPLE}, for example\n")
        recipe = load_recipe(EXAMPLE)
    elif not arguments or arguments[0].startswith("-"):
        raise UsageError("the run comes first: genjax resume RUN [options]")
    else:
        path = path_of(arguments[0])
        known = read_card(path) if is_model_file(path) else RunFolder(path).read_config()
        recipe = known.recipe
    return COMMANDS["resume"].run("resume", arguments, recipe=recipe)


def run_and_exit(run: Callable[[list[str]], int] = run, is_heard: bool = False) -> None:
    """Run the command line, print what went wrong, and exit.

    Args:
        run: Function that runs the arguments and gives the exit code.
        is_heard: Whether Ctrl-C, which has ended the process so far, is a KeyboardInterrupt now.
    """
    # To the end of the process, as other packages close their files in its last moments.
    sys.excepthook = _only_of_this_thread
    sys.unraisablehook = lambda args: None
    threading.excepthook = lambda args: None
    try:
        if is_heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        _set_up()
        code = run(sys.argv[1:])
        sys.stdout.flush()  # here a full disk or a broken pipe can be told
        sys.exit(code)
    except (UsageError, ValidationError) as error:
        _fail(describe(error), 2)
    except (Diverged, SaveError, ProcessLost) as error:
        _fail(str(error), 1)
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in STORES:
            raise
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        _fail(f"a bucket or hub cannot be read or written: {text:.300}", 1)
    except Stopped as stop:
        _fail(str(stop), 128 + stop.signal)
    except KeyboardInterrupt as error:
        _fail(str(error) or "stopped", 130)
    finally:
        finish(sys.stdout)
        finish(sys.stderr)


class _Console(logging.Handler):
    """A handler that writes log lines to standard error, above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        mark = "warning: " if record.levelno >= logging.WARNING else ""
        tqdm.write(mark + printable(record.getMessage()), file=console)


def _set_up() -> None:
    # A file that is opened while standard error is closed would be taken for it.
    while (free := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(free)
    if sys.stdout is None:
        sys.stdout = open(1, "w")  # noqa: SIM115
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    log = logging.getLogger("genjax")
    log.setLevel(logging.INFO)
    log.addHandler(_Console())
    log.propagate = False
    if shutil.get_terminal_size().columns < FEWEST_COLUMNS:  # tyro would not come to an end
        os.environ["COLUMNS"] = str(FEWEST_COLUMNS)
    # They tell of the inner workings of other packages; what matters is raised as an error, and an
    # image that cannot be read is reported by its name.
    for name in ("absl", "asyncio", "matplotlib", "PIL"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module=r"PIL\.")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SECONDS_TO_CACHE)


def _only_of_this_thread(*error: Any) -> None:
    """Print a traceback, but not where a thread of TensorStore fails: it is raised here too."""
    if threading.current_thread() is threading.main_thread():
        sys.__excepthook__(*error)


def _fail(message: str, code: int) -> None:
    print(f"genjax: error: {printable(message)}", file=console, flush=True)
    if is_joined():  # a normal exit would wait for processes that wait for this one
        os._exit(code)
    sys.exit(code)
