"""What benchmarks draw: a detector of random weights, photographs, textures."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import torch

from realnet import config
from realnet.config import RealNetConfig
from realnet.detection import bundle
from realnet.detection.calibration import Calibration
from realnet.models.build import build_detector
from realnet.models.checkpoint import Checkpoint
from realnet.preparation.toy import draw_photographs

SIZE = (600, 800)
NUM_DRAWN, LARGEST = 20, 1024
JPEG_QUALITY = 90


def write_detector(path: Path, described: Path, overrides: Sequence[str] = ()) -> None:
    """Write a bundle of the network that a config describes, with random weights and thresholds of 0.5."""
    settings = config.load(RealNetConfig, described, ["backbone.weights=none", *overrides])
    torch.manual_seed(0)
    model = build_detector(settings).eval()
    facts = {
        "step": 0,
        "backbone": {"name": settings.backbone.name, "checksum": model.backbone.checksum},
        "calibration": asdict(Calibration(0.5, 0.5, 1.0, held_out=True, num_images=1, num_anomalies=1)),
    }
    drawn = Checkpoint(
        kind="realnet",
        state_dict=model.state_dict(),
        dataset="drawn",
        classes=("drawn",),
        class_name="drawn",
        config=settings.model_dump(mode="json"),
        facts=facts,
    )
    bundle.write(path, drawn)


def write_photographs(folder: Path, number: int, size: tuple[int, int] = SIZE) -> list[Path]:
    """Write JPEGs of a size (height, width); a few are drawn, and the others, and large ones, repeat their pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = draw_photographs(min(number, NUM_DRAWN), (min(size[0], LARGEST), min(size[1], LARGEST)))
    repeats = (-(-size[0] // LARGEST), -(-size[1] // LARGEST), 1)
    whole = (np.tile(image, repeats)[: size[0], : size[1]] for image in drawn)
    encoded = [
        cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes() for image in whole
    ]
    files = [folder / f"{place:05}.jpg" for place in range(number)]
    for place, file in enumerate(files):
        file.write_bytes(encoded[place % len(encoded)])
    return files


def write_textures(folder: Path, number: int = 60) -> Path:
    """Write coloured textures, smoothed noise and gratings, in place of the Describable Textures; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        rng = np.random.default_rng(index)
        scale, angle = rng.uniform(2, 24), rng.uniform(0, np.pi)
        noise = cv2.GaussianBlur(rng.standard_normal((256, 256)).astype(np.float32), (0, 0), scale / 2)
        y, x = np.mgrid[:256, :256]
        grating = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / (2 * scale) + 2 * noise / noise.std())
        pattern = (grating if index % 2 else noise / noise.std())[..., None]
        colours = rng.uniform(40, 215, 3) + pattern * rng.uniform(-60, 60, 3)
        cv2.imwrite(str(folder / f"{index:03}.png"), colours.clip(0, 255).astype(np.uint8))
    return folder
