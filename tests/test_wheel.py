"""The wheel: it holds what it needs, and works in an empty folder, without the checkout."""

import re
import shlex
import shutil
import site
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, because a build leaves folders where it works."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("realnet", "guided_diffusion", "experiments"):
        outputs = shutil.ignore_patterns("__pycache__", "*_checkpoints", "*_log", "*_vis")
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=outputs)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    command = [*PIP, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(folder), str(folder / "source")]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The programs' folder of a fresh environment with the wheel; its dependencies are those of the running one."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    programs = folder / ("Scripts" if sys.platform == "win32" else "bin")
    found = subprocess.run(
        [programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    packages = Path(found.stdout.strip())
    packages.joinpath("running.pth").write_text("\n".join(site.getsitepackages()))
    subprocess.run([*PIP, "--python", str(programs / "python"), "install", "--no-deps", str(wheel)], check=True)
    return programs


def test_the_wheel_holds_every_module_and_the_published_configs(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = (path for package in ("realnet", "guided_diffusion") for path in (ROOT / package).rglob("*"))
    sources = {path for path in sources if path.suffix in {".py", ".css", ".js", ".html"} or path.name == "py.typed"}
    configs = {f"realnet/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "experiments").glob("*/*.yaml")}
    assert held == configs | {path.relative_to(ROOT).as_posix() for path in sources}


def test_the_requirements_stand_in_two_places_and_are_the_same():
    wanted, tested = (
        re.findall(r"^[^#\s-].*$", (ROOT / name).read_text(), re.MULTILINE)
        for name in ("requirements.txt", "requirements-test.txt")
    )
    extras = PROJECT["project"]["optional-dependencies"]
    assert sorted(wanted) == sorted([*PROJECT["project"]["dependencies"], *extras["tensorboard"]])
    assert {*extras["serve"]} <= {*tested}


VERBS = """
import os, shlex, sys
from realnet.commands.program import module_of

for line in sys.argv[1:]:
    verb, *arguments = shlex.split(line)
    if verb == "move":
        os.renames(*arguments)
    elif verb == "enter":
        os.chdir(*arguments)
    else:
        assert not module_of(verb).main(arguments)
"""
"""Runs several verbs in one process: most of a verb is imports."""


def test_from_an_empty_folder_a_detector_is_trained_and_used(installed, tmp_path):
    def run(*command: str, code: int = 0) -> str:
        ended = subprocess.run(
            [installed / command[0], *command[1:]], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert ended.returncode == code, ended.stderr
        return ended.stdout + ended.stderr

    assert run("realnet", "--version") == f"realnet {__import__('realnet').__version__}\n"
    assert "add your own with: realnet prepare add" in run("realnet", "train", "--dataset", "bolts", code=2)
    few = ("train.num_steps=2", "afs.init_batches=1", "anomalies.types={normal: 0.5, self: 0.5}", "image_size=32")
    flags = shlex.join(flag for value in few for flag in ("--set", value))
    printed = run(
        *("python", "-c", VERBS, "prepare toy"),
        f"train --dataset toy --class_name weave --device cpu {flags}",
        "export --dataset toy --output elsewhere/weave.realnet",
        "move data/toy/images/weave/test/hole elsewhere/photos",
        "move data gone/data",
        "move experiments gone/experiments",
        "enter elsewhere",
        "predict --detector weave.realnet --input photos --device cpu",
    )
    assert "next       realnet evaluate --dataset toy --class_name weave" in printed
    assert "next       realnet predict --detector elsewhere/weave.realnet --input PHOTOS" in printed
    assert len((tmp_path / "elsewhere/predictions/predictions.csv").read_text().splitlines()) == 1 + 8
