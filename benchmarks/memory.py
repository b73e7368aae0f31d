"""Measure the peak memory of each stage and compare it with what ``--dry-run`` states.

Usage: python -m benchmarks.memory [--device cpu] [--precision fp32 bf16] [--stages diffusion …] [--batches 4 8]

On a GPU, the networks are the published ones at 256×256, and the peak is torch.cuda.max_memory_allocated. On a CPU,
they are smaller (see ``CASES``), and the peak is the process's resident memory above its baseline. There malloc returns
freed memory to the system; with --keep, the process keeps it as the scripts do (realnet/runtime/threads.py). Each
measurement runs the code of the stage in a new process, on toy images and random weights.

The stage ``metrics`` evaluates 1,000 images of 512×512 (or --batches images) with a stand-in for the network.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from guided_diffusion.guidance import ClassifierGuidance
from realnet import config
from realnet.config import ClassifierConfig, DiffusionConfig, EvaluationConfig, RealNetConfig, SampleConfig
from realnet.data.images import write_image
from realnet.data.index import Entry
from realnet.data.registry import open_dataset
from realnet.detection.maps import anomaly_maps
from realnet.dry_run import rehearsal
from realnet.evaluation.files import TestFiles
from realnet.evaluation.scores import curves_of, score_split, summarise
from realnet.evaluation.split import TestSplit
from realnet.models.build import build_classifier, build_detector, build_diffusion, build_unet
from realnet.preparation.toy import make_toy_dataset
from realnet.runtime import precision, threads
from realnet.runtime.distributed import World
from realnet.sdas.sampler import Draw, Sampler, sample_batch
from realnet.training.classifier_task import train_classifier
from realnet.training.detector_data import detector_data
from realnet.training.detector_task import train_detector
from realnet.training.diffusion_task import normal_images, train_diffusion

CLASSES = ("weave", "widget")
UNET: dict[str, Any] = {"image_size": 64, "model": {"channels": 64, "channel_mult": [1, 2, 3, 4]}}
DETECTOR: dict[str, Any] = {
    "blocks": {f"block{i}": {"levels": {f"layer{i}": "all"}} for i in (1, 2, 3)},
    "backbone": {"name": "torchvision/shufflenet_v2_x0_5"},
    "rrs": {"modes": {"max": 64, "mean": 64}},
}
CASES: Mapping[str, Mapping[str, tuple[dict[str, Any], tuple[int, ...]]]] = {
    "cpu": {
        "diffusion": (UNET, (8, 16)),
        "classifier": (UNET, (32,)),
        "detector": (DETECTOR, (8, 16)),
        "evaluation": ({}, (1, 8)),
        "sampling": (UNET, (16, 32)),
    },
    "cuda": {
        "diffusion": ({}, (1, 4)),
        "classifier": ({}, (20,)),
        "detector": ({}, (16,)),
        "evaluation": ({}, (1, 16)),
        "sampling": ({}, (16,)),
    },
}
"""By device type and stage: settings that differ from the published ones, and batch sizes."""


@dataclass(frozen=True)
class Case:
    """A stage to measure; ``settings`` are those that differ from the published ones."""

    stage: str
    settings: Mapping[str, Any]
    batch: int
    number_format: precision.FormatName
    device: str
    keeps_freed_memory: bool = False

    def training(self, **train: object) -> dict[str, Any]:
        """Return the settings of a training stage."""
        runtime = {"precision": self.number_format, "num_workers": 0}
        return {**self.settings, "runtime": runtime | self.settings.get("runtime", {}), "train": train}


def diffusion_config(case: Case) -> DiffusionConfig:
    """Return the config of diffusion training, with the smallest health check."""
    train = case.training(batch_size=case.batch, accumulation=1, num_steps=2)
    return DiffusionConfig(**train, pretrained=None, validation={"num_batches": 1, "respacing": "ddim4"})


def classifier_config(case: Case) -> ClassifierConfig:
    """Return the config of classifier training."""
    return ClassifierConfig(**case.training(batch_size=case.batch, num_steps=2), pretrained=None)


def detector_config(case: Case) -> RealNetConfig:
    """Return the config of the detector, with random backbone weights."""
    settings = case.training(batch_size=case.batch, num_steps=2, evaluation=False)
    settings["backbone"] = settings.get("backbone", {}) | {"weights": "none"}
    fast = {"afs": {"init_batches": 1}, "calibration": {"num_anomalies": 2}, "evaluation": {"batch_size": case.batch}}
    return RealNetConfig(**settings, **fast, anomalies={"types": {"self": 1.0}})


def sample_config(case: Case) -> SampleConfig:
    """Return the config of sampling."""
    return SampleConfig(batch_size=case.batch, respacing="ddim4", runtime={"precision": case.number_format})


def estimate(case: Case) -> int:
    """Return the bytes that ``--dry-run`` states."""
    number_format = precision.planned(case.number_format, torch.device(case.device))
    if case.stage == "diffusion":
        return rehearsal.diffusion_training(diffusion_config(case), len(CLASSES), number_format)
    if case.stage == "classifier":
        return rehearsal.classifier_training(classifier_config(case), len(CLASSES), number_format)
    if case.stage == "sampling":
        return rehearsal.sampling(_sampler(case, torch.device("meta")), sample_config(case), number_format)
    described = detector_config(case)
    with torch.device("meta"):
        model = build_detector(described)
    if case.stage == "detector":
        return rehearsal.detector_training(model, described, number_format)
    return rehearsal.detection(model, described.image_size, case.batch, number_format)


def measure(case: Case) -> int:
    """Run a stage and return its peak in bytes; call it in a new process."""
    for name in ("timm", "torchvision", "torch.utils.tensorboard"):  # part of the baseline
        import_module(name)
    os.chdir(tempfile.mkdtemp())
    device = torch.device(case.device)
    _make_toy()
    _warm_up(device)
    if case.keeps_freed_memory:
        threads.keep_freed_memory()
    baseline = _status("VmRSS")
    _RUNS[case.stage](case, World(0, 1, precision.resolve(case.number_format, device)))
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM") - baseline


def _diffusion(case: Case, world: World) -> None:
    train_diffusion(diffusion_config(case), normal_images("toy"), world)


def _classifier(case: Case, world: World) -> None:
    train_classifier(classifier_config(case), normal_images("toy"), world)


def _detector(case: Case, world: World) -> None:
    described = detector_config(case)
    train_detector(described, detector_data(open_dataset("toy"), CLASSES[0], described), world)


def _evaluation(case: Case, world: World) -> None:
    described = detector_config(case)
    model = build_detector(described).to(world.device).eval()
    image = torch.zeros(case.batch, 3, *described.image_size)
    for _ in range(2):
        anomaly_maps(model, image, precision.resolve(described.runtime.precision, world.device))


def _sampling(case: Case, world: World) -> None:
    settings = sample_config(case)
    number_format = precision.resolve(settings.runtime.precision, world.device)
    drawn = [Draw(f"{index}.png", CLASSES[0], index, 0.1) for index in range(case.batch)]
    sample_batch(_sampler(case, world.device), drawn, settings, number_format)


def _sampler(case: Case, device: torch.device) -> Sampler:
    described = diffusion_config(case)
    with device:
        unet = build_unet(described, len(CLASSES)).eval()
        classifier = build_classifier(classifier_config(case), len(CLASSES)).eval().requires_grad_(False)
    diffusion = build_diffusion(described.process, sample_config(case).respacing)
    return Sampler(diffusion, unet, ClassifierGuidance(classifier), CLASSES, described.image_size, "random", [], True)


def _metrics(case: Case, world: World) -> None:
    """Score a set of 512×512 images; all values of their anomaly maps differ, which makes the largest curves."""
    kinds = [Entry("good.png", 0, "good", "toy"), Entry("bad.png", 1, "defective", "toy", maskname="mask.png")]
    mask = np.zeros((512, 512, 3), np.uint8)
    mask[100:200, 150:300] = 255
    for name in ("good.png", "bad.png", "mask.png"):
        write_image(Path(name), mask)
    entries, runtime = [kinds[index % 2] for index in range(case.batch)], config.RuntimeConfig(num_workers=0)
    scores = score_split(
        _Noise(),  # type: ignore[arg-type]  # stands in for a detector
        TestSplit(TestFiles(entries, Path(), (512, 512)), runtime=runtime, world=world),
        config=EvaluationConfig(batch_size=16),
        precision=world.precision,
    )
    print({name: str(metric) for name, metric in summarise(curves_of(scores)).items()})


class _Noise(nn.Module):
    """Return maps spread over 29 powers of 2, like those of a confident detector; almost no two values are equal."""

    def forward(self, image: Tensor) -> SimpleNamespace:
        return SimpleNamespace(
            anomaly_map=torch.exp(-20 * torch.rand(len(image), 1, *image.shape[-2:], dtype=torch.float64))
        )


_RUNS = {
    "diffusion": _diffusion,
    "classifier": _classifier,
    "detector": _detector,
    "evaluation": _evaluation,
    "sampling": _sampling,
    "metrics": _metrics,
}


def _make_toy() -> None:
    make_toy_dataset(Path("data/toy/images"), image_size=(64, 64), num_train=32, num_good=1, num_defects=1)
    folder = Path("experiments/toy")
    folder.mkdir(parents=True)
    (folder / "dataset.yaml").write_text("image_root: data/toy/images\nforeground: {weave: full}\n")


def _warm_up(device: torch.device) -> None:
    """Load the device's libraries."""
    layer = nn.Conv2d(3, 8, 3).to(device)
    layer(torch.zeros(1, 3, 8, 8, device=device)).sum().backward()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _status(name: str) -> int:
    """Return the bytes of resident memory that Linux reports: now (``VmRSS``) or at its peak (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """Yield the cases that the flags select."""
    known = CASES[torch.device(arguments.device).type]
    for stage in arguments.stages or known:
        settings, batches = known.get(stage, ({}, (1000,)))
        for batch in arguments.batches or batches:
            formats: Sequence[precision.FormatName] = ("fp32",) if stage == "metrics" else arguments.precision
            for number_format in formats:
                yield Case(stage, settings, batch, number_format, arguments.device, arguments.keep)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--stages", nargs="+", choices=tuple(_RUNS))
    parser.add_argument("--batches", nargs="+", type=int, help="batch sizes, instead of those of the stage")
    parser.add_argument("--keep", action="store_true", help="on a CPU: keep freed memory, as the scripts do")
    arguments = parser.parse_args()
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**20))  # read when a new process starts
    print(f"{'stage':<12}{'batch':>6}{'format':>8}{'--dry-run':>12}{'measured':>12}{'ratio':>8}")
    for case in cases(arguments):
        with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
            measured = pool.submit(measure, case).result()
        row = f"{case.stage:<12}{case.batch:>6}{case.number_format:>8}"
        if case.stage == "metrics":
            print(f"{row}{'':>12}{measured / 1e9:>9.2f} GB", flush=True)
            continue
        stated = estimate(case)
        print(f"{row}{stated / 1e9:>9.2f} GB{measured / 1e9:>9.2f} GB{stated / measured:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
