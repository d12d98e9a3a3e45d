"""The layout: modules import only from their package and the layers above; functions are short."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import genjax

# From the top; packages of one layer do not import each other either.
LAYERS = [
    ["console", "linear", "types"],
    ["samplers", "transforms"],
    ["nn"],
    ["objectives"],
    ["steps"],
    ["models"],
    ["data"],
    ["metrics"],
    ["interop"],
    ["run"],
    ["figures", "planning"],
    ["evaluation"],
    ["exchange", "trainer"],
    ["bench"],
    ["cli"],
]
# The packages that use `run`, which imports none of them.
USERS_OF_RUN = {"figures", "planning", "evaluation", "exchange", "trainer"}
PACKAGE = Path(genjax.__file__).parent


def _package(module: str) -> str:
    return module.split(".")[1]


def _layer(package: str) -> int:
    return next(layer for layer, packages in enumerate(LAYERS) if package in packages)


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "genjax":
            found.update(f"genjax.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name.startswith("genjax.")}


def _imports_by_package() -> list[tuple[str, str, str]]:
    """Return (package, package that it imports from, the import as text) for each import."""
    paths = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]
    assert len(paths) > 20
    found = []
    for path in paths:
        module = ".".join(["genjax", *path.relative_to(PACKAGE).with_suffix("").parts])
        found += [
            (_package(module), _package(name), f"{module} -> {name}") for name in _imports(path)
        ]
    return found


def test_imports_go_up():
    wrong = [
        line
        for package, other, line in _imports_by_package()
        if package != other and _layer(other) >= _layer(package)
    ]
    assert not wrong


def test_what_a_run_is_knows_nothing_of_what_is_done_with_it():
    assert not [
        line
        for package, other, line in _imports_by_package()
        if package == "run" and other in USERS_OF_RUN
    ]


def test_only_the_registry_and_interop_name_a_family():
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name not in ("models", "interop"):
            assert not any(name.startswith("genjax.models.") for name in _imports(path)), path


def test_no_function_is_longer_than_80_lines():
    assert not [
        f"{path.relative_to(PACKAGE)}: {node.name} has {length} lines"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > 80
    ]


def test_a_command_waits_for_no_import_that_it_does_not_need():
    slow = {"sklearn", "torch", "tensorboardX", "matplotlib", "grain", "scipy.special"}
    code = f"import sys, genjax.cli.run; print(*({slow} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not found.stdout.split()


def test_public_names_are_found_and_listed():
    assert set(genjax.__all__) <= set(dir(genjax))
    for name in genjax.__all__:
        found = getattr(genjax, name)
        assert getattr(found, "__module__", found.__name__).startswith("genjax.")
        if inspect.isfunction(found):  # help shows types, and nothing of the command line
            assert "tyro" not in str(inspect.signature(found)), name
            assert "Config" not in str(inspect.signature(found)), name
    shown = inspect.signature(genjax.history).parameters["run"].annotation
    assert shown == str | Path | genjax.Result | genjax.Trained
    assert genjax.models.FAMILIES
    with pytest.raises(AttributeError, match="'genjax' has no attribute 'nothing'"):
        genjax.nothing  # noqa: B018
    code = "import sys, genjax, genjax.cli; print('jax' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout == "False\n"


IMPORT_ALONE = """
import importlib, sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "experiments"):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Without())
for module in sys.argv[1:]:
    importlib.import_module(module)
"""


def test_no_module_needs_pytorch_or_what_is_not_installed():
    modules = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in PACKAGE.rglob("*.py")
        if path.stem not in ("__init__", "__main__")
    ]
    subprocess.run([sys.executable, "-c", IMPORT_ALONE, *modules], check=True)
