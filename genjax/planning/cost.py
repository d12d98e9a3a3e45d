"""Costs of a compiled program: arithmetic, memory traffic and collectives.

XLA's own cost analysis counts the body of a loop once; here it counts for each trip. Arithmetic is
read from the jaxpr, traffic and collectives from the text of the compiled HLO. A conditional counts
as its costliest branch.
"""

import dataclasses
import functools
import math
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)

# Passes of a TPU's matrix unit, which multiplies bfloat16, for a product of float32 factors. Each
# factor is a sum of two such numbers at high precision, of three at the highest; the smallest of
# their products are left out.
PASSES = {lax.Precision.DEFAULT: 1, lax.Precision.HIGH: 3, lax.Precision.HIGHEST: 6}

# Primitives that call an inner program with their own inputs.
CALLS = ("jit", "closed_call", "checkpoint")


def flops(jaxpr: Any, known: Sequence[Any] | None = None, passes: bool = False) -> int:
    """Count the floating point operations of a program's matrix products and convolutions.

    A multiplication and an addition count as two. Multiplications by the zeros that the gradient of
    a strided convolution inserts do not count.

    Args:
        jaxpr: The program, such as `jax.make_jaxpr(function)(*arguments)`.
        known: For each input its value, or None if it is not known. If a conditional's choice
            follows from these values, the chosen branch counts; otherwise the costliest one.
        passes: Whether a product counts once for each of its `PASSES` on a TPU.
    """
    return _walk(jaxpr, known, passes)[0]


def _walk(jaxpr: Any, known: Sequence[Any] | None, passes: bool) -> tuple[int, list[Any]]:
    """Return the operations of a program, and the values of its outputs, None if not known."""
    jaxpr = _open(jaxpr)
    values = dict(zip(jaxpr.invars, known or [None] * len(jaxpr.invars), strict=True))
    total = 0
    for equation in jaxpr.eqns:
        given = [_value(each, values) for each in equation.invars]
        count, found = _walk_equation(equation, given, passes)
        total += count
        values |= dict(zip(equation.outvars, found, strict=True))
    return total, [_value(each, values) for each in jaxpr.outvars]


def _open(jaxpr: Any) -> Any:
    return getattr(jaxpr, "jaxpr", jaxpr)


def _value(atom: Any, values: dict[Any, Any]) -> Any:
    """Return the value of a literal or variable; None if it is not known."""
    return atom.val if hasattr(atom, "val") else values.get(atom)


def _is_small(equation: Any) -> bool:
    """Return whether an equation has inputs, and only integer or boolean scalars as outputs."""
    avals = [each.aval for each in equation.outvars]
    return bool(equation.invars) and all(
        not aval.shape and getattr(aval.dtype, "kind", "key") in "iub" for aval in avals
    )


def _walk_equation(equation: Any, given: Sequence[Any], passes: bool) -> tuple[int, list[Any]]:
    """Return the operations of an equation, and the values of its outputs, None if not known.

    Calls are walked and not evaluated, because the devices that they are for may not be here.
    """
    name, params = equation.primitive.name, equation.params
    if name in CALLS:
        (inner,) = _inner_jaxprs(params)
        return _walk(inner, given, passes)
    if name == "cond" and given[0] is not None:
        return _walk(params["branches"][int(given[0])], given[1:], passes)
    if all(value is not None for value in given) and _is_small(equation):
        found = equation.primitive.bind(*given, **params)
        return 0, found if equation.primitive.multiple_results else [found]
    return _flops_of_equation(equation, given, passes), [None] * len(equation.outvars)


def _flops_of_equation(equation: Any, given: Sequence[Any], passes: bool) -> int:
    """Return the operations of an equation whose input values are `given`, None if not known."""
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        size = math.prod(shape[axis] for axis in contracted)
        return 2 * equation.outvars[0].aval.size * size * (_passes(equation) if passes else 1)
    if name == "conv_general_dilated":
        if params["feature_group_count"] > 1:
            return 0  # a blur, of each channel alone, is no product of matrices
        _, kernel, _ = params["dimension_numbers"]
        shape = equation.invars[1].aval.shape
        size = math.prod(shape[axis] for axis in kernel[1:])  # inputs and window
        count = 2 * equation.outvars[0].aval.size * size // math.prod(params["lhs_dilation"])
        return count * (_passes(equation) if passes else 1)
    if name == "cond":
        return max(flops(branch, given[1:], passes) for branch in params["branches"])
    if name == "scan":
        return params["length"] * flops(params["jaxpr"], passes=passes)
    return sum(flops(inner, passes=passes) for inner in _inner_jaxprs(params))


def _passes(product: Any) -> int:
    """Return the passes of a matrix product or convolution on a TPU."""
    if all(each.aval.dtype != jnp.float32 for each in product.invars):
        return 1
    return max(PASSES[each] for each in product.params["precision"] or [lax.Precision.DEFAULT])


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for each in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(_open(each), "eqns"):
                yield each


@dataclasses.dataclass(frozen=True)
class Traffic:
    """The bytes that one run of a program moves on each device.

    Attributes:
        memory: Bytes that its operations read and write.
        collectives: Kind, bytes and number of calls of each collective; the bytes are those of its
            input or output, whichever is larger.
    """

    memory: int
    collectives: list[tuple[str, int, int]]

    def bytes_of(self, kind: str) -> int:
        """Return the bytes that all collectives of a kind reduce or move."""
        return sum(size * times for name, size, times in self.collectives if name == kind)

    @property
    def calls(self) -> int:
        """Number of calls of collectives."""
        return sum(times for _, _, times in self.collectives)


@dataclasses.dataclass(frozen=True)
class _Instruction:
    """An instruction of the HLO text: `name = shape opcode(rest`, where `rest` has the operands."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str

    @functools.cached_property
    def size(self) -> int:
        """Bytes of the output."""
        return _bytes(self.shape)

    @functools.cached_property
    def bytes(self) -> int:
        """Bytes of the output in the device's main memory, not on the chip (`S(1)` on a TPU)."""
        return sum(self.bytes_of_outputs)

    @functools.cached_property
    def bytes_of_outputs(self) -> list[int]:
        """`bytes` of each array of the output, which may be a tuple."""
        arrays = re.findall(r"\w+\[[\d,]*\](?:\{[^}]*\})?", self.shape)
        return [0 if re.search(r"S\([1-9]", array) else _bytes(array) for array in arrays]

    def called(self, *attributes: str) -> list[str]:
        """Return the names of the computations that it calls, in these attributes."""
        found = []
        for attribute in attributes:
            match = re.search(rf"\b{attribute}=(\{{[^}}]*\}}|%?[\w.-]+)", self.rest)
            if match:
                found += re.findall(r"%?([\w.-]+)", match[1])
        return found


def traffic(hlo: str) -> Traffic:
    """Count the traffic of a compiled program.

    Args:
        hlo: The text of the program, `jax.stages.Compiled.as_text()`.
    """
    computations, entry = _parse(hlo)

    @functools.cache
    def of(name: str) -> tuple[int, tuple[tuple[str, int, int], ...]]:
        memory, collectives = 0, []
        by_name = {each.name: each for each in computations[name]}
        for each in computations[name]:
            kind = each.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                inputs = sum(by_name[n].size for n in each.operands if n in by_name)
                output = each.size - (inputs if each.opcode == "all-gather-start" else 0)
                collectives.append((kind, max(inputs, output), 1))
            for part, times in _parts(each, of, computations):
                memory += times * part[0]
                collectives += [(k, size, n * times) for k, size, n in part[1]]
            memory += _moved(each, by_name, computations)
        return memory, tuple(collectives)

    memory, found = of(entry)
    return Traffic(memory, list(found))


def _parts(
    each: _Instruction, of: Any, computations: dict[str, list[_Instruction]]
) -> Iterator[tuple[Any, int]]:
    """Iterate over the costs of the computations inside an instruction, and how often each runs."""
    if each.opcode == "while":
        for name in each.called("body"):
            yield of(name), _trips(each, computations)
    elif each.opcode == "conditional":
        names = each.called("branch_computations", "true_computation", "false_computation")
        yield max(map(of, names), key=_cost), 1
    elif each.opcode in ("call", "async-start"):
        for name in each.called("to_apply", "calls"):
            yield of(name), 1
    elif each.opcode == "fusion":  # its memory traffic is counted from outside, by `_moved`
        for name in each.called("calls"):
            yield (0, of(name)[1]), 1


def _cost(part: tuple[int, Any]) -> int:
    memory, collectives = part
    return memory + sum(size * times for _, size, times in collectives)


def _trips(loop: _Instruction, computations: dict[str, list[_Instruction]]) -> int:
    """Return how often a loop runs: XLA's count, or the number that ends it."""
    known = re.search(r'"known_trip_count":\s*\{"n":\s*"(\d+)"', loop.rest)
    if known:
        return int(known[1])
    (condition,) = loop.called("condition")
    numbers = [
        int(match[1])
        for each in computations[condition]
        if each.opcode == "constant" and (match := re.match(r"(\d+)\)", each.rest))
    ]
    return max(numbers, default=1)


@dataclasses.dataclass(frozen=True)
class Work:
    """The costs of one run of an instruction.

    Attributes:
        flops: Operations of its matrix products and convolutions; 0 for calls of a library, where
            they are unknown.
        bytes: Bytes read and written.
        source: The operation of the jax program that it was made from, by jax's name.
        opcode: The kind of the instruction, by XLA's name.
    """

    flops: int
    bytes: int
    source: str
    opcode: str


def work_of_instructions(hlo: str) -> dict[str, Work]:
    """Return the costs of each instruction of a compiled program, by name.

    Args:
        hlo: The text of the program, `jax.stages.Compiled.as_text()`.
    """
    computations, _ = _parse(hlo)
    found = {}
    for instructions in computations.values():
        by_name = {each.name: each for each in instructions}
        for each in instructions:
            match = re.search(r'op_name="([^"]*)"', each.rest)
            found[each.name] = Work(
                _flops_of_instruction(each, by_name, computations),
                _moved(each, by_name, computations),
                match[1] if match else "",
                each.opcode,
            )
    return found


def _flops_of_instruction(
    each: _Instruction,
    by_name: dict[str, _Instruction],
    computations: dict[str, list[_Instruction]],
) -> int:
    if each.opcode == "fusion":
        (name,) = each.called("calls")
        inside = {other.name: other for other in computations[name]}
        return sum(_flops_of_instruction(other, inside, computations) for other in inside.values())
    outputs = math.prod(_sizes(each.shape))
    if each.opcode == "dot":
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", each.rest)
        sizes = _sizes(by_name[each.operands[0]].shape)
        contracted = [sizes[int(axis)] for axis in axes[1].split(",") if axis] if axes else []
        return 2 * outputs * math.prod(contracted)
    if each.opcode == "convolution":
        labels = re.search(r"dim_labels=\w+_(\w+)->", each.rest)
        dilation = re.search(r"lhs_dilate=([\dx]+)", each.rest)
        if labels is None:
            return 0
        sizes = _sizes(by_name[each.operands[1]].shape)
        seen = [n for label, n in zip(labels[1], sizes, strict=True) if label != "o"]
        zeros = math.prod(int(n) for n in dilation[1].split("x")) if dilation else 1
        return 2 * outputs * math.prod(seen) // zeros
    return 0


def _sizes(shape: str) -> list[int]:
    """Return the sizes of the first array in a shape of the HLO text."""
    match = re.search(r"\[([\d,]*)\]", shape)
    return [int(size) for size in match[1].split(",") if size] if match else []


# Instructions that read only as much as they output.
SLICES = ("dynamic-slice", "slice", "gather")
# Instructions that move nothing, or whose inner instructions are counted instead.
FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("while", "conditional", "call", "async-start", "async-update", "async-done", "copy-done"),
    *("opt-barrier", "partition-id", "replica-id"),
)


def _moved(
    each: _Instruction,
    by_name: dict[str, _Instruction],
    computations: dict[str, list[_Instruction]],
) -> int:
    """Return the bytes that an instruction reads and writes."""
    if each.opcode in FREE or each.opcode.endswith("-done"):
        return 0
    operands = [by_name[name] for name in each.operands if name in by_name]
    if each.opcode in SLICES:
        return 2 * each.bytes
    if each.opcode in ("dynamic-update-slice", "scatter"):
        return 2 * operands[1].bytes
    if each.opcode != "fusion":
        return each.bytes + sum(operand.bytes for operand in operands)
    inside = computations[each.called("calls")[0]]
    read = sum(
        min(operand.bytes, _read(inside, place, computations))
        for place, operand in enumerate(operands)
    )
    return read + _written(each, inside)


def _read(
    inside: list[_Instruction], place: int, computations: dict[str, list[_Instruction]]
) -> int:
    """Return the bytes that a fused computation reads of its parameter number `place`.

    If it only slices the parameter, they are those of the slices; otherwise `sys.maxsize`.
    """
    of_place = f"{place})"
    names = {i.name for i in inside if i.opcode == "parameter" and i.rest.startswith(of_place)}
    total = 0
    for each in inside:
        if not names & set(each.operands):
            continue
        if each.opcode == "bitcast":
            names.add(each.name)
        elif each.opcode in SLICES:
            total += each.size
        elif each.opcode == "fusion":
            deeper = computations[each.called("calls")[0]]
            places = [k for k, name in enumerate(each.operands) if name in names]
            total += sum(_read(deeper, k, computations) for k in places)
        elif each.opcode != "dynamic-update-slice" or each.operands[0] not in names:
            return sys.maxsize
    return total


def _written(fusion: _Instruction, inside: list[_Instruction]) -> int:
    """Return the bytes that a fused computation writes; of an update in place, only the slice."""
    by_name = {each.name: each for each in inside}
    root = inside[-1]
    sizes = fusion.bytes_of_outputs
    # The root is a tuple, or one instruction with one or several outputs, such as a reduction.
    outputs = [by_name[n] for n in root.operands] if root.opcode == "tuple" else [root] * len(sizes)
    total = 0
    for output, size in zip(outputs, sizes, strict=True):
        while output.opcode == "bitcast" and output.operands[0] in by_name:
            output = by_name[output.operands[0]]
        is_update = output.opcode == "dynamic-update-slice"
        total += min(size, by_name[output.operands[1]].size) if is_update else size
    return total


def _parse(hlo: str) -> tuple[dict[str, list[_Instruction]], str]:
    """Parse HLO text into its computations by name, and the name of the entry computation."""
    computations: dict[str, list[_Instruction]] = {}
    entry = current = ""
    for line in hlo.splitlines():
        header = re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line)
        if header:
            current = header[2]
            computations[current] = []
            entry = current if header[1] else entry
            continue
        match = re.match(r"\s+(?:ROOT )?%?([\w.-]+) = ", line)
        if match and current:
            computations[current].append(_instruction(match[1], line[match.end() :]))
    return computations, entry


def _instruction(name: str, text: str) -> _Instruction:
    end = _closing(text) if text.startswith("(") else text.index(" ")
    shape, text = text[:end], text[end:].lstrip()
    opcode, _, rest = text.partition("(")
    operands = rest[: _closing("(" + rest) - 2]
    names = tuple(re.findall(r"%([\w.-]+)", operands))
    return _Instruction(name, shape, opcode.strip(), names, rest)


def _closing(text: str) -> int:
    """Return the index after the parenthesis that closes the one at the start of `text`."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place + 1
    return len(text)


def _bytes(shape: str) -> int:
    """Return the bytes of a shape of the HLO text, summed over a tuple."""
    total = 0
    for kind, sizes in re.findall(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]", shape):
        digits = re.search(r"\d+", kind)  # a token has none
        bits = 8 if kind == "pred" else int(digits[0]) if digits else 0
        total += bits * math.prod(int(size) for size in sizes.split(",") if size)
    return total // 8


def peak_bytes(compiled: jax.stages.Compiled) -> int:
    """Return the bytes of memory that a program needs on a device, by the compiler's plan."""
    plan: Any = compiled.memory_analysis()
    return (
        plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        - plan.alias_size_in_bytes
        + plan.temp_size_in_bytes
        + plan.generated_code_size_in_bytes
    )
