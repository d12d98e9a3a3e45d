"""A module imports only from the floors above its own, as the listing below has them."""

import ast
import subprocess
import sys
from pathlib import Path

import genjax

FLOORS = [
    "types",
    "transforms",
    "nn",
    "objectives",
    "steps",
    "models",
    "data",
    "metrics",
    "interop",
    "run",
    "figures",
    "evaluation",
    "training",
    "planning",
    "bench",
    "cli",
]
PACKAGE = Path(genjax.__file__).parent


def _floor(module: str) -> int:
    return FLOORS.index(module.split(".")[1])


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name.startswith("genjax.")}


def test_imports_go_up():
    paths = [p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py"]
    assert len(paths) > 20
    wrong = []
    for path in paths:
        module = ".".join(["genjax", *path.relative_to(PACKAGE).with_suffix("").parts])
        wrong += [f"{module} -> {n}" for n in _imports(path) if _floor(n) > _floor(module)]
    assert not wrong


def test_only_the_registry_interop_and_counterparts_name_a_family():
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name not in ("models", "interop", "pytorch"):
            assert not any(name.startswith("genjax.models.") for name in _imports(path)), path


def test_a_command_waits_for_no_import_that_it_does_not_need():
    slow = {"sklearn", "torch", "tensorboardX", "matplotlib", "grain", "scipy.stats"}
    code = f"import sys, genjax.cli; print(*({slow} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not said.stdout.split()


WITHOUT_TORCH = """
import importlib, sys

class WithoutTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(name, name="torch")

sys.meta_path.insert(0, WithoutTorch())
for module in sys.argv[1:]:
    importlib.import_module(module)
"""


def test_only_the_counterparts_in_pytorch_need_it():
    modules = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "pytorch" and path.stem not in ("__init__", "__main__")
    ]
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *modules], check=True)
