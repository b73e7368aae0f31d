"""What can be wrong with the dataset ``tiny`` and its checkpoints: each function makes it so in the current folder."""

import shutil
from pathlib import Path

import numpy as np
import tiny_detector
import torch

from realnet.config import ClassifierConfig, DiffusionConfig, load, paths
from realnet.data.images import write_image
from realnet.models import checkpoint
from realnet.models.build import build_classifier, build_unet
from realnet.models.checkpoint import Checkpoint
from realnet.training.state import path_of

CLASSES = ("weave", "widget")
IMAGES, EXPERIMENT = Path("data/tiny/images"), Path("experiments/tiny")
DIFFUSION, CLASSIFIER = (EXPERIMENT / f"{stage}_checkpoints" / paths.LAST for stage in ("diffusion", "classifier"))
DETECTOR = EXPERIMENT / "realnet_checkpoints/weave" / paths.LAST


def no_images() -> None:
    shutil.rmtree(IMAGES)


def empty_folder() -> None:
    no_images()
    IMAGES.mkdir()


def empty_classes() -> None:
    for name in CLASSES:
        shutil.rmtree(IMAGES / name / "train/good")
        (IMAGES / name / "train/good").mkdir()


def no_widget() -> None:
    shutil.rmtree(IMAGES / "widget")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


def cut_training_images() -> None:
    for name in CLASSES:
        cut(IMAGES / name / "train/good/001.png")
    (IMAGES / "weave/train/good/002.png").write_bytes(b"no image")


def cut_test_images() -> None:
    detectors()
    cut(IMAGES / "weave/test/hole/000.png")
    cut(IMAGES / "weave/ground_truth/fibre/000_mask.png")


def large_masks() -> None:
    detectors()
    for kind in ("hole", "fibre"):
        write_image(IMAGES / f"weave/ground_truth/{kind}/000_mask.png", np.ones((40, 32), bool))


def masks_alone() -> None:
    detectors()
    shutil.rmtree(IMAGES / "weave/test/hole")
    (IMAGES / "weave/test/fibre/000.png").unlink()


def leaks() -> None:
    detectors()
    for number in (1, 2):
        shutil.copy(IMAGES / f"weave/train/good/00{number}.png", IMAGES / f"weave/test/good/leak{number}.png")


def cut_sdas() -> None:
    for name in CLASSES:
        path = paths.sdas("tiny", name) / "00000.jpg"
        write_image(path, np.zeros((32, 32, 3), np.uint8))
        cut(path)


def left_by_a_killed_sampler() -> None:
    write_image(paths.sdas("tiny", "weave") / ".00000.jpg", np.zeros((32, 32, 3), np.uint8))


def detectors() -> None:
    for name in CLASSES:
        tiny_detector.save(name)


def detector_of_another_dataset() -> None:
    tiny_detector.save("weave", dataset="metal").rename(Path("metal.pth"))


def detector_of_widget() -> None:
    detectors()
    shutil.copy(DETECTOR.parents[1] / "widget" / paths.LAST, DETECTOR)


def detector_of_other_tensors() -> None:
    _change_tensors(tiny_detector.save("weave"))


def best_detector_of_other_tensors() -> None:
    detectors()
    _change_tensors(tiny_detector.save("weave", paths.BEST))


def _change_tensors(path: Path) -> None:
    stored = checkpoint.read(path)
    state = stored["state_dict"] = {key: value.clone() for key, value in stored["state_dict"].items()}
    state["rrs.more"], state["rrs.decoder3.2.bias"] = torch.ones(2), torch.ones(7)
    del state["rrs.decoder3.2.weight"]
    checkpoint.write(path, stored)


def detector_of_infinite_weights() -> None:
    detectors()
    stored = checkpoint.read(DETECTOR)
    stored["state_dict"]["rrs.decoder3.2.bias"].fill_(torch.inf)
    checkpoint.write(DETECTOR, stored)


def cut_detector() -> None:
    tiny_detector.save("weave")
    cut(DETECTOR)


def diffusion(path: Path = DIFFUSION, *, classes: tuple[str, ...] = CLASSES, dataset: str = "tiny") -> None:
    config = load(DiffusionConfig, EXPERIMENT / "diffusion.yaml")
    state, described = build_unet(config, len(classes)).state_dict(), config.model_dump(mode="json")
    weights = Checkpoint("diffusion", state_dict=state, dataset=dataset, classes=classes, config=described)
    checkpoint.save(path, weights)


def diffusion_of_another_dataset() -> None:
    diffusion(dataset="metal")


def diffusion_and_a_third_class() -> None:
    diffusion()
    shutil.copytree(IMAGES / "weave", IMAGES / "zebra")


def published_diffusion_of_three_classes() -> None:
    config = load(DiffusionConfig, EXPERIMENT / "diffusion.yaml")
    DIFFUSION.parent.mkdir()
    torch.save({"epoch": 1, "state_dict": build_unet(config, 3).state_dict()}, DIFFUSION)


def classifier_of_three_classes() -> None:
    diffusion()
    config = load(ClassifierConfig, EXPERIMENT / "classifier.yaml")
    CLASSIFIER.parent.mkdir()
    torch.save(build_classifier(config, 3).state_dict(), CLASSIFIER)


def pretrained_diffusion_of_other_tensors() -> None:
    config = load(DiffusionConfig, EXPERIMENT / "diffusion.yaml", ["model.channels=64"])
    state = build_unet(config, 1000).state_dict()
    del state["out.2.bias"]
    torch.save(state, "given.pt")


def cut_states() -> None:
    for name in (path_of(DIFFUSION), checkpoint.previous(path_of(DIFFUSION))):
        checkpoint.write(name, {"kind": "training state", "step": 1, "config": {}})
        cut(name)


def misspelt_configs() -> None:
    for stage in ("diffusion", "classifier", "realnet"):
        path = EXPERIMENT / f"{stage}.yaml"
        path.write_text("train: {batch_sise: 2, num_steps: none}\nseed: 1.5\nimage_size: 0\n")
