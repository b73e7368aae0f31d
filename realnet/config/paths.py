"""Where files are, relative to the working folder: the one in which a command starts, or ``REALNET_HOME``."""

import importlib.util
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

Stage = Literal["diffusion", "classifier", "sample", "realnet"]
Purpose = Literal["checkpoints", "log", "vis"]

EXPERIMENTS = Path("experiments")
DATA = Path("data")
LAST, BEST = "ckpt_last.pth", "ckpt_best.pth"
LAYOUT, ACCOUNT = "layout.yaml", "account.csv"
SDAS_MANIFEST, SDAS_SETTINGS, SDAS_OWN = "manifest.csv", "settings.yaml", ".images"
"""The finished images, their settings, and the names of all images that ``sample.py`` may write and remove."""
SDAS_QUALITY, SDAS_DESCRIPTIONS = "quality.json", ".descriptions.npz"
"""The scores of the finished images, and the numbers that they were computed from."""


def is_inside(name: str) -> bool:
    """Tell whether a relative path that a file names stays inside the folder that it is relative to, on any system."""
    forms = (PurePosixPath(name), PureWindowsPath(name))
    return bool(name) and not any(form.anchor or ".." in form.parts for form in forms)


def experiment(dataset: str) -> Path:
    """Return the folder of a dataset's configs and results."""
    return EXPERIMENTS / dataset


@cache
def shipped() -> Path | None:
    """Return the folder of configs that came with the installed package; None in a checkout, where they lie in view."""
    found = importlib.util.find_spec("realnet.experiments")
    places = found.submodule_search_locations if found else None
    return next(map(Path, places), None) if places else None


def config_file(dataset: str, name: str) -> Path:
    """Return the path of a dataset's ``<name>.yaml``: its own, or else the one that came with the package."""
    own, came = experiment(dataset) / f"{name}.yaml", shipped()
    if came is None or own.is_file() or not (came / dataset / own.name).is_file():
        return own
    return came / dataset / own.name


def output(
    dataset: str, stage: Stage, purpose: Purpose, class_name: str | None = None, seed: int | None = None
) -> Path:
    """Return ``experiments/<dataset>/<stage>_<purpose>[/<class>[/seed_<N>]]``."""
    folder = experiment(dataset) / f"{stage}_{purpose}" / (class_name or "")
    return folder if seed is None else folder / seed_folder(seed)


def seed_folder(seed: int) -> str:
    """Return the name of the folder, in that of a class, of the detector with one of several seeds."""
    return f"seed_{seed}"


def protocols(dataset: str) -> Path:
    """Return the folder of a dataset's protocols (``train_<class>.json``, ``test_<class>.json``)."""
    return DATA / dataset / "samples"


def account(dataset: str) -> Path:
    """Return the file that says what each image of a dataset that a user added became."""
    return DATA / dataset / ACCOUNT


FEATURES = DATA / ".features"
"""What ``runtime.keep_features`` keeps, of all datasets."""


def sdas(dataset: str, class_name: str) -> Path:
    """Return the folder of a class's synthesised anomalous images."""
    return DATA / dataset / "sdas" / class_name
