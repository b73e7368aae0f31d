"""Where files are, relative to the folder in which the scripts start."""

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


def is_inside(name: str) -> bool:
    """Tell whether a relative path that a file names stays inside the folder that it is relative to, on any system."""
    forms = (PurePosixPath(name), PureWindowsPath(name))
    return bool(name) and not any(form.anchor or ".." in form.parts for form in forms)


def experiment(dataset: str) -> Path:
    """Return the folder of a dataset's configs and results."""
    return EXPERIMENTS / dataset


def output(dataset: str, stage: Stage, purpose: Purpose, class_name: str | None = None) -> Path:
    """Return ``experiments/<dataset>/<stage>_<purpose>[/<class>]``."""
    folder = experiment(dataset) / f"{stage}_{purpose}"
    return folder / class_name if class_name else folder


def protocols(dataset: str) -> Path:
    """Return the folder of a dataset's protocols (``train_<class>.json``, ``test_<class>.json``)."""
    return DATA / dataset / "samples"


def account(dataset: str) -> Path:
    """Return the file that says what each image of a dataset that a user added became."""
    return DATA / dataset / ACCOUNT


def sdas(dataset: str, class_name: str) -> Path:
    """Return the folder of a class's synthesised anomalous images."""
    return DATA / dataset / "sdas" / class_name
