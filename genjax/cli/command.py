"""Commands made of public functions, whose signatures and docstrings are the options and help."""

import contextlib
import difflib
import functools
import inspect
import io
import logging
import re
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import tyro
from pydantic import ValidationError

from genjax.data.processes import is_first, join
from genjax.run.records import to_strict_json
from genjax.types import UsageError, describe

# A public function with the arguments that the options give, as keywords; not called yet.
Call = functools.partial[Any]


def print_result(call: Call) -> int:
    """Print the result of the call: values as JSON, anything else as text."""
    found = call()
    is_values = isinstance(found, dict)
    print(to_strict_json(found, indent=2) if is_values else found, flush=True)
    return 0


def join_others() -> None:
    """Join the other processes of the run, if any; only the first one tells what it does."""
    join()
    if not is_first():
        logging.getLogger("genjax").handlers[0].setLevel(logging.ERROR)


def print_together(call: Call) -> int:
    """Make the call together with the other processes, if any; the first one prints the result."""
    join_others()
    if is_first():
        return print_result(call)
    call()
    return 0


class Command(NamedTuple):
    """A command made of a public function.

    Attributes:
        function: The function; its signature and docstring are the options and the help.
        finish: Function that gets the call, makes it, and returns the exit code; its further
            parameters become options too.
    """

    function: Callable[..., Any]
    finish: Callable[..., int] = print_result

    @property
    def argument(self) -> str:
        """The function's first parameter in capitals, such as RECIPE, or "" if it has a default."""
        first = next(iter(inspect.signature(self.function).parameters.values()), None)
        return first.name.upper() if first and first.default is first.empty else ""

    @property
    def description(self) -> str:
        """The function's docstring without its sections."""
        return re.split("\n\n(?:Args|Returns|Raises):", inspect.getdoc(self.function) or "")[0]

    def run(self, name: str, arguments: list[str], **defaults: Any) -> int:
        """Run the command with its part of a command line, and return its exit code.

        Args:
            name: Name in the help.
            arguments: The options.
            defaults: Default values of parameters of the function, in place of its own.

        Raises:
            UsageError: The arguments do not fit; tyro's message, without its frame, on one line.
        """
        call = functools.partial(_deferred(self.function), **defaults)
        options = Annotated[Any, tyro.conf.arg(name="", constructor=call)]
        errors = io.StringIO()
        try:
            with contextlib.redirect_stderr(errors):
                work = tyro.cli(
                    _deferred(self.finish, call=options),
                    prog=f"genjax {name}",
                    description=self.description,
                    args=arguments,
                )
        except SystemExit as stop:
            if not stop.code:
                raise
            raise UsageError(_one_line(errors.getvalue(), stop)) from None
        code: int = work()
        return code


def _deferred(function: Callable[..., Any], **annotations: Any) -> Callable[..., Call]:
    """Return a function of the same parameters that returns the call instead of making it.

    `annotations` replace those of its parameters.
    """

    def deferred(**options: Any) -> Call:
        return functools.partial(function, **options)

    # Each parameter's text on one line, because tyro would keep the breaks.
    deferred.__doc__ = re.sub(r"\n {8,}", " ", inspect.getdoc(function) or "")
    deferred.__annotations__ = function.__annotations__ | annotations
    deferred.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return deferred


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
