"""What comes with genjax: recipes and trained models; and a list of them, without importing jax."""

import ast
import re
from collections.abc import Mapping
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def shipped(kind: str) -> Path:
    """Return the folder of `recipes` or of `trained` models that come with genjax.

    It is inside an installed package, and beside it in a checkout.
    """
    inside = PACKAGE / kind
    return inside if inside.is_dir() else PACKAGE.parent / "experiments" / kind


def recipe_paths() -> dict[str, Path]:
    """Return the files of the recipes that come with genjax, by name."""
    return {path.stem: path for path in sorted(shipped("recipes").glob("*.py"))}


def trained_paths() -> dict[str, Path]:
    """Return the files of the trained models that come with genjax, by name."""
    return {path.stem: path for path in sorted(shipped("trained").glob("*.safetensors"))}


def recipe_summary(path: Path) -> str:
    """Return the first line of a recipe file's docstring."""
    doc = ast.get_docstring(ast.parse(path.read_text())) or ""
    return doc.partition("\n")[0]


def own_families() -> dict[str, str]:
    """Read each family's paper in the modules of genjax.models, whose import takes a second."""
    models = PACKAGE / "models"
    registry = (models / "__init__.py").read_text()
    papers = {}
    for name, module, value in re.findall(r'^    "(\w+)": (\w+)\.(\w+),$', registry, re.MULTILINE):
        _, _, family = (models / f"{module}.py").read_text().partition(f"\n{value} = Family(")
        papers[name] = family.split('"')[1]
    return papers


def to_list(families: Mapping[str, str]) -> str:
    """List the recipes and trained models that come with genjax, and families by their papers."""
    recipes = [f"  {name:16} {recipe_summary(path)}" for name, path in recipe_paths().items()]
    papers = [f"  {name:16} {paper}" for name, paper in families.items()]
    models = [f"  trained:{name}" for name in trained_paths()]
    return "\n".join(["recipes", *recipes, "families", *papers, "trained models", *models])
