"""Imports run one way: scripts → training, evaluation → models, data → leaves."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("guided_diffusion", "realnet")
SCRIPTS = sorted(ROOT.glob("*.py"))
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LEAVES = ("realnet.models", "realnet.models.losses", "realnet.metrics.curves")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    """Everything that a file imports, at its top or inside a function, each name also with what it is taken from."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


IMPORTS = {name_of(path): imports_of(path) for path in (*MODULES, *SCRIPTS)}


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def offenders(importers: tuple[str, ...], forbidden: tuple[str, ...]) -> dict[str, set[str]]:
    """The modules within ``importers`` that import from ``forbidden``, and what."""
    found = {
        module: {name for name in names if any(is_in(name, border) for border in forbidden)}
        for module, names in IMPORTS.items()
        if any(is_in(module, importer) for importer in importers)
    }
    assert found, f"none of {importers} exists any more"
    return {module: names for module, names in found.items() if names}


def test_one_module_knows_of_torch_distributed():
    assert set(offenders(("realnet", "guided_diffusion", *(p.stem for p in SCRIPTS)), ("torch.distributed",))) == {
        "realnet.runtime.distributed"
    }


def test_guided_diffusion_stands_alone():
    assert not offenders(("guided_diffusion",), ("realnet", "yaml", "pydantic"))


@pytest.mark.parametrize("leaf", LEAVES)
def test_models_losses_and_metrics_know_neither_configs_nor_processes_nor_what_uses_them(leaf):
    above = ("realnet.training", "realnet.evaluation.scores", "realnet.detection.detector", "realnet.models.build", "realnet.data")
    assert not offenders((leaf,), ("realnet.config", "realnet.runtime.distributed", "realnet.commands.cli", "yaml", "pydantic", *above))


def test_nothing_below_imports_training_evaluation_or_the_command_line():
    below = ("realnet.data", "realnet.config", "realnet.models.checkpoint", "realnet.models.build", "realnet.runtime.precision")
    assert not offenders(below, ("realnet.training", "realnet.evaluation.scores", "realnet.detection.detector"))
    library = ("realnet.training", "realnet.evaluation.scores", "realnet.detection.detector", *below)
    assert not offenders(library, ("realnet.commands.cli", "argparse"))


def test_data_knows_no_networks():
    assert not offenders(("realnet.data",), ("realnet.models", "realnet.models.build", "realnet.models.losses"))


def test_the_smallest_modules_import_nothing_of_the_project():
    assert not offenders(("realnet.errors", "realnet.config.paths"), PACKAGES)


def test_no_module_imports_a_script():
    scripts = tuple(path.stem for path in SCRIPTS)
    assert not offenders((*PACKAGES, *scripts), scripts)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_is_of_a_size_to_read(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


def test_modules_are_named_for_what_they_do():
    assert not [p for p in MODULES if any(word in p.stem for word in ("util", "helper", "misc", "common", "tools"))]


def public(module_name: str) -> list:
    """The public functions and classes that a module defines."""
    members = vars(importlib.import_module(module_name)).values()
    made_here = [m for m in members if getattr(m, "__module__", None) == module_name and hasattr(m, "__qualname__")]
    return [member for member in made_here if not member.__name__.startswith("_")]


@pytest.mark.parametrize(
    "part", ["models.afs", "models.backbone", "models.reconstruction", "models.rrs", "models.realnet", "losses"]
)
def test_every_formula_of_the_detector_names_its_section(part):
    members = public(f"realnet.{part}")
    assert len(members) >= 2
    assert not [member.__name__ for member in members if "section 3" not in (inspect.getdoc(member) or "")]
