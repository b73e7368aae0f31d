"""Imports run one way: each package imports those below it and no others, functions' own imports included."""

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(ROOT.glob("*.py"))
MODULES = sorted(path for package in ("guided_diffusion", "realnet") for path in (ROOT / package).rglob("*.py"))

IMPORTS_OF = {
    "config": "errors",
    "runtime": "config errors guided_diffusion",
    "metrics": "",
    "data": "config errors runtime",
    "drawing": "data metrics",
    "inspection": "config data errors",
    "anomalies": "config data drawing errors inspection runtime",
    "models": "config errors guided_diffusion runtime",
    "sdas": "config data drawing errors guided_diffusion metrics models runtime",
    "detection": "anomalies config data drawing errors metrics models runtime",
    "evaluation": "config data detection drawing errors metrics models runtime",
    "reporting": "config data detection drawing errors evaluation inspection metrics models runtime sdas",
    "prediction": "data detection drawing errors reporting runtime",
    "serving": "data detection errors",
    "preparation": "anomalies config data errors inspection runtime",
    "training": "anomalies config data detection errors evaluation guided_diffusion inspection metrics models runtime "
    "sdas",
    "dry_run": "config data detection guided_diffusion inspection models runtime sdas training",
    "commands": "anomalies config data detection dry_run errors evaluation inspection models prediction preparation "
    "reporting runtime sdas serving training",
}
"""The packages from the lowest to the highest, and what each imports: all of it, and nothing else."""


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


def rooms_of(names: set[str]) -> set[str]:
    """The packages of the project (and ``errors``) that imported names lie in."""
    rooms = {match[1] for name in names if (match := re.match(r"realnet\.(\w+)", name))}
    return rooms | {"guided_diffusion" for name in names if is_in(name, "guided_diffusion")}


def importers_of(*names: str) -> set[str]:
    return {module for module, found in IMPORTS.items() if any(is_in(one, name) for one in found for name in names)}


def test_realnet_holds_packages_alone():
    loose = {path.name for path in (ROOT / "realnet").glob("*.py")}
    assert loose == {"__init__.py", "errors.py"}
    assert {path.parent.name for path in (ROOT / "realnet").glob("*/__init__.py")} == set(IMPORTS_OF)


def test_every_border_points_down():
    order = list(IMPORTS_OF)
    for package, below in IMPORTS_OF.items():
        upwards = set(below.split()) - {"errors", "guided_diffusion", *order[: order.index(package)]}
        assert not upwards, f"{package} would import {upwards}, which lie above it"


@pytest.mark.parametrize("package", IMPORTS_OF)
def test_a_package_imports_what_lies_below_it(package):
    modules = {name: found for name, found in IMPORTS.items() if is_in(name, f"realnet.{package}")}
    allowed = {*IMPORTS_OF[package].split(), package}
    assert {name: rooms_of(found) - allowed for name, found in modules.items() if rooms_of(found) - allowed} == {}
    used = set().union(*(rooms_of(found) for found in modules.values()))
    assert allowed - used <= {package}, "the list names what is not imported any more"


@pytest.mark.parametrize("package", [*IMPORTS_OF, "guided_diffusion"])
def test_the_modules_of_a_package_import_each_other_in_no_circle(package):
    full = package if package == "guided_diffusion" else f"realnet.{package}"
    inside = {name: {other for other in found if other in IMPORTS} - {name} for name, found in IMPORTS.items()}
    left = {name: {other for other in inside[name] if is_in(other, full) and other != full} for name in inside}
    left = {name: others for name, others in left.items() if is_in(name, full) and name != full}
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    assert not left, "these import each other in a circle"


def test_errors_and_guided_diffusion_stand_alone():
    assert not rooms_of(IMPORTS["realnet.errors"])
    assert not {name for name in importers_of("realnet", "yaml", "pydantic") if is_in(name, "guided_diffusion")}


def test_one_module_knows_of_torch_distributed():
    assert importers_of("torch.distributed") == {"realnet.runtime.distributed"}


def test_networks_metrics_and_noise_know_neither_configs_nor_processes():
    leaves = ("realnet.models", "realnet.metrics", "realnet.anomalies.perlin", "guided_diffusion")
    knowing = importers_of("realnet.config", "realnet.runtime.distributed", "yaml", "pydantic")
    assert {name for name in knowing if any(is_in(name, leaf) for leaf in leaves)} == {"realnet.models.build"}


def test_the_command_line_is_known_to_commands_alone():
    assert all(is_in(name, "realnet.commands") for name in importers_of("argparse"))


def test_a_script_names_its_command_and_nothing_else():
    for path in SCRIPTS:
        assert rooms_of(IMPORTS[path.stem]) == {"commands"} and len(path.read_text().splitlines()) <= 8, path.name


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_is_of_a_size_to_read(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


def test_modules_are_named_for_what_they_do():
    assert not [p for p in MODULES if any(word in p.stem for word in ("util", "helper", "misc", "common", "tools"))]


IS_BEFORE_NAME = re.compile(r"--(dataset|class_name|classes|name|detector|checkpoint) \S?$").search


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_names_in_printed_commands_are_quoted_for_the_shell(path):
    texts = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.JoinedStr)]
    commands = [node.values for node in texts if any(".py " in ast.unparse(part) for part in node.values)]
    pairs = [(ast.unparse(flag), ast.unparse(name)) for parts in commands for flag, name in pairwise(parts)]
    named = [name for flag, name in pairs if IS_BEFORE_NAME(flag)]
    assert not [name for name in named if "quote" not in name and "{names}" not in name]
