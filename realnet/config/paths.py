"""Where files are, relative to the folder in which the scripts start."""

from pathlib import Path
from typing import Literal

Stage = Literal["diffusion", "classifier", "sample", "realnet"]
Purpose = Literal["checkpoints", "log", "vis"]

EXPERIMENTS = Path("experiments")
DATA = Path("data")
LAST, BEST = "ckpt_last.pth", "ckpt_best.pth"
SDAS_MANIFEST, SDAS_SETTINGS = "manifest.csv", "settings.yaml"
LAYOUT, ACCOUNT = "layout.yaml", "account.csv"


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
