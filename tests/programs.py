"""Interpretation of a function's program, its jaxpr, instruction by instruction."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jax import lax
from jax.extend import core

# Instructions that hold a program of their own, which is evaluated in their place.
CALLS = (
    "jit",
    "pjit",
    "closed_call",
    "checkpoint",
    "remat2",
    "custom_jvp_call",
    "custom_vjp_call",
    "linear",
)


def instructions(program: Any, around: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Iterate over all instructions of a program, each after those that it is inside of."""
    for eqn in getattr(program, "jaxpr", program).eqns:
        yield *around, eqn
        for value in eqn.params.values():
            for each in value if isinstance(value, (tuple, list)) else (value,):
                if hasattr(getattr(each, "jaxpr", each), "eqns"):
                    yield from instructions(each, (*around, eqn))


class Interpreter:
    """An evaluation of programs; a subclass changes what it wants to be different."""

    def constant(self, x: Any) -> Any:
        """Return the value of a constant of the program."""
        return x

    def literal(self, atom: Any) -> Any:
        """Return the value of a number in the program."""
        return atom.val

    def instruction(self, eqn: Any, args: list[Any]) -> list[Any]:
        """Evaluate an instruction that holds no program."""
        outputs = eqn.primitive.bind(*args, **eqn.params)
        return outputs if eqn.primitive.multiple_results else [outputs]

    def evaluate(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        """Return the outputs of a program for `args`."""
        values = dict(zip(jaxpr.constvars, map(self.constant, consts), strict=True))
        values |= dict(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Any:
            return self.literal(atom) if isinstance(atom, core.Literal) else values[atom]

        for eqn in jaxpr.eqns:
            outputs = self._apply(eqn, [read(atom) for atom in eqn.invars])
            values |= dict(zip(eqn.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _function(self, closed: Any) -> Callable[..., list[Any]]:
        if not hasattr(closed, "jaxpr"):  # without constants
            return lambda *args: self.evaluate(closed, (), args)
        return lambda *args: self.evaluate(closed.jaxpr, closed.consts, args)

    def _apply(self, eqn: Any, args: list[Any]) -> list[Any]:
        name, params = eqn.primitive.name, eqn.params
        if name in CALLS:
            called = params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]
            return self._function(called)(*args)
        if name == "cond":
            index, *operands = args
            branches = [self._function(branch) for branch in params["branches"]]
            if isinstance(index, int):
                return branches[index](*operands)
            return lax.switch(index, branches, *operands)
        if name == "scan":
            return self._scan(eqn, args)
        if name == "while":
            return self._while(params, args)
        return self.instruction(eqn, args)

    def _scan(self, eqn: Any, args: list[Any]) -> list[Any]:
        params, jaxpr = eqn.params, eqn.params["jaxpr"]

        # How an equation says which arguments are scanned differs between versions of jax; they are
        # those, at the end, of which the body sees one row.
        def scanned(outer: Any, inner: Any) -> int:
            return sum(one.ndim > other.ndim for one, other in zip(outer, inner, strict=True))

        num_xs = scanned([atom.aval for atom in eqn.invars], jaxpr.in_avals)
        num_ys = scanned([atom.aval for atom in eqn.outvars], jaxpr.out_avals)
        first_x, num_carry = len(args) - num_xs, len(eqn.outvars) - num_ys
        first_carry = first_x - num_carry
        consts, carry, xs = args[:first_carry], args[first_carry:first_x], args[first_x:]
        body = self._function(params["jaxpr"])

        def one(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
            outputs = body(*consts, *carry, *x)
            return outputs[: len(carry)], outputs[len(carry) :]

        carry, ys = lax.scan(one, carry, xs, params["length"], params["reverse"])
        return [*carry, *ys]

    def _while(self, params: dict[str, Any], args: list[Any]) -> list[Any]:
        ends = np.cumsum([params["cond_nconsts"], params["body_nconsts"]])
        of_test, of_body, state = args[: ends[0]], args[ends[0] : ends[1]], args[ends[1] :]
        test = self._function(params["cond_jaxpr"])
        body = self._function(params["body_jaxpr"])
        return lax.while_loop(lambda s: test(*of_test, *s)[0], lambda s: body(*of_body, *s), state)
