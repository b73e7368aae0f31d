"""Finds the golden cases: every ``<name>.json`` with its ``<name>.npz`` under ``REALNET_GOLDEN``."""

import importlib.util
import json
import math
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
DEVICE = torch.device(os.environ.get("REALNET_GOLDEN_DEVICE", "cpu"))
"""Where the networks of the cases compute."""


@dataclass(frozen=True)
class Case:
    name: str
    run: dict
    outputs: dict[str, np.ndarray]


def folder() -> Path:
    return Path(os.environ.get("REALNET_GOLDEN", ROOT.parent / "shared" / "golden"))


def paths(kind: str, stem: str) -> list:
    """Parameters for ``pytest.mark.parametrize``: each case's JSON, or one skipped parameter where there is none."""
    found = sorted((folder() / kind).glob(f"{stem}*.json"))
    skipped = pytest.param(None, marks=pytest.mark.skip(reason=f"no golden case {kind}/{stem}* under {folder()}"))
    return [pytest.param(path, id=path.stem) for path in found] or [skipped]


def load(path: Path) -> Case:
    outputs = path.with_suffix(".npz")
    with np.load(outputs) as arrays:
        return Case(path.stem, json.loads(path.read_text()), {key: arrays[key] for key in arrays.files})


@cache
def formula() -> ModuleType:
    """The closed-form tensors that belong to the golden cases."""
    spec = importlib.util.spec_from_file_location("golden_formula", folder() / "formula.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_close(actual, expected, tolerance: float = 2e-4) -> None:
    """Compare within ``tolerance`` of the expected output's largest magnitude."""
    actual, expected = as_array(actual).astype(np.float64), np.asarray(expected, dtype=np.float64)
    assert actual.shape == expected.shape
    worst = np.abs(actual - expected).max(initial=0)
    assert worst <= tolerance * np.abs(expected).max(initial=0), f"differs by {worst}"


def as_array(value) -> np.ndarray:
    """An array of a tensor on any device, or of anything else."""
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def evaluate(expression: str):
    """The array, or the tensor on DEVICE, that a case's JSON names (torch needs builtins, which the formula lacks)."""
    known = formula()
    names = {
        "tensor": known.tensor,
        "wave": known.wave,
        "spread": known.spread,
        "torch": torch,
        "np": np,
        "pi": math.pi,
    }
    value = eval(expression, names)
    return value.to(DEVICE) if isinstance(value, torch.Tensor) else value
