"""Commands made of public functions, whose signatures and docstrings are the options and help."""

import contextlib
import difflib
import functools
import inspect
import io
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import tyro
from pydantic import ValidationError

from genjax.run.recipe import describe
from genjax.run.records import to_strict_json
from genjax.types import UsageError

# A public function with the arguments that the options give, as keywords; not called yet.
Call = functools.partial[Any]


class Command(NamedTuple):
    """A command that `run_command` runs.

    Attributes:
        function: Function from the options to the work, which is called once all are accepted.
        help: Text that says what the command does.
    """

    function: Callable[..., Callable[[], int]]
    help: str


def print_result(call: Call) -> int:
    """Print the result of the call: text, or values as JSON."""
    found = call()
    print(found if isinstance(found, str) else to_strict_json(found, indent=2), flush=True)
    return 0


def command(
    function: Callable[..., Any], finish: Callable[..., int] = print_result, **defaults: Any
) -> Command:
    """Make a command of a public function.

    Args:
        function: The function; its signature and docstring are the options and the help.
        finish: Function that gets the call, makes it, and returns the exit code; its further
            parameters become options too.
        defaults: Default values of parameters of the function, in place of its own.
    """
    call = Annotated[Any, tyro.conf.arg(name="", constructor=_later(function, defaults))]
    text = (inspect.getdoc(function) or "").partition("\n\nArgs:")[0].partition("\n\nReturns:")[0]
    return Command(_later(finish, {}, call=call), text)


def _later(
    function: Callable[..., Any], defaults: Mapping[str, Any], **annotations: Any
) -> Callable[..., Any]:
    """Return a function with the same parameters that returns the call instead of making it.

    `defaults` and `annotations` replace defaults and types of its parameters.
    """

    def later(**options: Any) -> Call:
        return functools.partial(function, **options)

    signature = inspect.signature(function)
    parameters: dict[str, Any] = {
        name: each.replace(
            default=defaults.get(name, each.default), kind=inspect.Parameter.KEYWORD_ONLY
        )
        for name, each in signature.parameters.items()
    }
    later.__doc__ = function.__doc__
    later.__annotations__ = function.__annotations__ | annotations
    later.__signature__ = signature.replace(parameters=list(parameters.values()))  # type: ignore
    return later


def run_command(wanted: Command, name: str, arguments: list[str]) -> int:
    """Run a command with its part of a command line, and return its exit code.

    Raises:
        UsageError: The arguments do not fit; tyro's message, without its frame and on one line.
    """
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            work = tyro.cli(
                wanted.function, prog=f"genjax {name}", description=wanted.help, args=arguments
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(_one_line(errors.getvalue(), stop)) from None
    return work()


def _one_line(framed: str, stop: BaseException) -> str:
    # tyro frames a message in a box with the title in its edge, or, in plain ASCII, between rules
    # with the title above the first.
    is_box = framed.startswith("╭")
    framed = re.sub(r"^[│|]|[│|]$", "", framed, flags=re.MULTILINE)
    sections = re.split(r"^.*(?:───|---).*$", framed, flags=re.MULTILINE)
    sections = [text for text in (" ".join(section.split()) for section in sections) if text]
    message, *others = sections if is_box else sections[1:]
    cause: BaseException | None = stop
    while cause and not isinstance(cause, ValidationError):
        cause = cause.__context__
    if isinstance(cause, ValidationError):  # our own check, within what tyro built
        place = re.match(r"Error parsing (?:call\.)?recipe\.model\.(\S+):", message)
        return (f"{place[1]}." if place else "") + describe(cause)
    given = re.search(r"--[\w.-]+", message)
    hints = [other for other in others if "Perhaps you meant" in other or "similar to" in other]
    suggestions = re.findall(r"--[\w.-]+", " ".join(hints))
    if given and suggestions:
        closest = difflib.get_close_matches(given[0], suggestions, n=1, cutoff=0)
        return f"{message}; perhaps you meant {closest[0]}"
    return message
