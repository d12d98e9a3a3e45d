"""The memory and time of every recipe on TPU slices: the tables of experiments/README.md.

    pip install -e . -r requirements-tpu.txt
    python experiments/studies/slices.py

The real train step is compiled by the TPU compiler, on any machine: three hours on 2 cores, and for
stylegan2_ffhq1024 24 GB of memory. What is in the output file already, slices.jsonl beside this
script, is not compiled again: after Ctrl-C the same command goes on, and after a change of a model
its lines there are to be removed first. At the end the table is written into the README beside this
folder.
"""

import argparse
import dataclasses
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from genjax.planning.compile import Program, compile_step, roofline, topology_axes
from genjax.run.recipe import load_recipe
from genjax.run.shipped import recipe_paths

TOPOLOGIES = ("v5e:2x2", "v4:4x4x4", "v5e:16x16")
# A device takes a quarter of a recipe's batch, except for these recipes for pods.
IMAGES_A_DEVICE = {"biggan_imagenet128": 16, "stylegan2_ffhq256": 4, "stylegan2_ffhq1024": 4}
# v4 slices, from four chips to a whole pod.
SCALES = ("v4:2x2x1", "v4:4x4x4", "v4:8x8x8", "v4:16x16x16")
START, END = "<!-- slices -->", "<!-- end of slices -->"
README = Path(__file__).parents[1] / "README.md"


def compile_one(name: str, topology: str) -> Program:
    """Compile a recipe's step for a slice, with the same number of images a device on each."""
    recipe = load_recipe(name)
    share = IMAGES_A_DEVICE.get(name, recipe.batch_size // 4)
    batch_size = share * math.prod(topology_axes(topology))
    return compile_step(dataclasses.replace(recipe, batch_size=batch_size), topology)


def read(path: Path) -> dict[tuple[str, str], Program]:
    """Read the programs that have been compiled, by recipe and topology."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    return {(row["recipe"], row["where"]): Program(**row["program"]) for row in rows}


def table(programs: dict[tuple[str, str], Program]) -> Iterator[str]:
    """Format the table with a line for each recipe and slice."""
    memory = "images a chip | GiB a chip | fits"
    yield f"| recipe | slice | {memory} | all-reduce MB | ms a step | images/s |"
    yield "| --- | --- | ---: | ---: | --- | ---: | ---: | ---: |"
    missing = []
    for name in recipe_paths():
        for topology in TOPOLOGIES:
            program = programs.get((name, topology))
            if program is None:
                missing.append(f"{name} ({topology})")
                continue
            # For a program that does not fit, the compiler reports its memory only.
            megabytes = program.collectives.get("all-reduce", 0) / 1e6
            reduced = f"{megabytes:,.1f}" if program.fits else ""
            seconds = program.step_seconds
            time = f"{seconds * 1e3:,.3g}" if seconds else ""
            rate = f"{program.batch_size / seconds:,.0f}" if seconds else ""
            yield (
                f"| {name} | {topology} | {program.batch_size // program.devices} | "
                f"{program.needed_gib:.2g} of {program.capacity_gib:g} | "
                f"{'yes' if program.fits else 'no'} | {reduced} | {time} | {rate} |"
            )
    if missing:
        yield ""
        yield f"Not compiled yet: {', '.join(missing)}."


def scaling(programs: dict[tuple[str, str], Program]) -> Iterator[str]:
    """Format the table of communication over computation, for growing slices."""
    titles = [f"{math.prod(topology_axes(topology)):,} chips" for topology in SCALES]
    yield f"| recipe | MB all-reduced | {' | '.join(titles)} |"
    yield f"| --- | ---: | {' | '.join('---:' for _ in SCALES)} |"
    for name in recipe_paths():
        program = programs.get((name, "v4:4x4x4"))
        times = [roofline(program, topology) for topology in SCALES] if program else []
        shares = [each.collectives / max(each.compute, each.memory) for each in times if each]
        if program is None or not shares:
            continue
        reduced = program.collectives.get("all-reduce", 0) / 1e6
        yield f"| {name} | {reduced:,.1f} | {' | '.join(f'{share:.2g}' for share in shares)} |"


def write(readme: Path, programs: dict[tuple[str, str], Program]) -> None:
    """Write the tables into the README."""
    text = "\n".join([START, *table(programs), "", *scaling(programs), END])
    old = readme.read_text()
    readme.write_text(re.sub(f"{START}.*{END}", lambda _: text, old, flags=re.DOTALL))


def main() -> None:
    """Compile what is missing, and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    parser.add_argument(
        "--only", nargs=2, metavar=("RECIPE", "TOPOLOGY"), help="one, to the output"
    )
    options = parser.parse_args()
    if options.only:
        name, topology = options.only
        program = dataclasses.asdict(compile_one(name, topology))
        with options.output.open("a") as file:
            row = {"recipe": name, "where": topology, "program": program}
            file.write(json.dumps(row) + "\n")
        return
    for topology in TOPOLOGIES:
        for name in recipe_paths():
            if (name, topology) not in read(options.output):
                # A new process for each, because the compiler keeps what it has compiled in memory.
                arguments = ["--output", str(options.output), "--only", name, topology]
                failed = subprocess.run([sys.executable, __file__, *arguments]).returncode
                print(name, topology, "failed" if failed else "compiled", flush=True)
    write(README, read(options.output))


if __name__ == "__main__":
    main()
