"""Predict with the tiny detector, as users do."""

import csv
from pathlib import Path

from conftest import load_script

OUTPUT = Path("experiments/tiny/realnet_vis/weave/predictions")
TEST = Path("data/tiny/images/weave/test")


def predict(*arguments: object) -> int:
    flags = ["--dataset", "tiny", "--class_name", "weave", "--device", "cpu", *map(str, arguments)]
    return load_script("predict_realnet").main(flags)


def rows(output: Path = OUTPUT) -> dict[str, dict[str, str]]:
    return {row["file"]: row for row in csv.DictReader((output / "predictions.csv").open())}
