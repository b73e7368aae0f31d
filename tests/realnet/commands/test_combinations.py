"""Each pair of settings that the configs allow runs, from training to files, on the smallest sizes."""

from collections.abc import Mapping, Sequence
from itertools import combinations, cycle, product
from pathlib import Path

import numpy as np
import pytest
import spoil

from realnet.config import paths
from realnet.data.images import read_image, write_image
from realnet.models import checkpoint

NETWORKS = {
    "blocks": (
        "{b1: {levels: {layer1: 8}}, b2: {levels: {layer2: 8}}, b3: {levels: {layer3: 8}}, b4: {levels: {layer4: 8}}}",
        "{b1: {levels: {layer1: 8, layer2: 16}, stride: 4}, b2: {levels: {layer3: 16, layer4: 8}, stride: 16}}",  # C
        "{own: {levels: {layer2: all}}}",
    ),
    "backbone.name": ("test_resnet", "tf_efficientnet_lite0", "torchvision/shufflenet_v2_x0_5", "torchvision/resnet18"),
    "rrs.modes": ("{max: 4}", "{mean: 4}", "{max: 4, mean: 4}"),
    "rrs.stop_grad": ("false", "true"),
    "loss.segmentation": ("cross_entropy", "focal"),
    "runtime.precision": ("fp32", "bf16"),
}
DATA = {
    "anomalies.types": (
        "{normal: 0.5, sdas: 0.5}",
        "{dtd: 1}",
        "{normal: 0.5, self: 0.5}",
        "{normal: 0.4, sdas: 0.2, dtd: 0.2, self: 0.2}",
    ),
    "train.augment": ("false", "true"),
    "train.accumulation": ("1", "2"),
    "calibration.holdout_fraction": ("0", "0.2"),
}
GENERATION = {
    "process.noise_schedule": ("linear", "cosine"),
    "model.attention_resolutions": ("[]", "[16, 8]"),
    "runtime.activation_checkpointing": ("false", "true"),
    "runtime.precision": ("fp32", "bf16"),
    "train.augment": ("false", "true"),
}
SAMPLING = {
    "sampler": ("ancestral", "ddim", "dpm"),
    "guidance": ("true", "false"),
    "respacing": ("snr2", "snr3"),
    "eta": ("0", "0.5"),
    "format": ("jpg", "png"),
}


def pairwise(factors: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Return few combinations in which each value of a factor meets each value of every other (greedily)."""
    every = [dict(zip(factors, values, strict=True)) for values in product(*factors.values())]

    def pairs(chosen: Mapping[str, str]) -> set:
        return set(combinations(chosen.items(), 2))

    missing = set().union(*map(pairs, every))
    found = []
    while missing:
        found.append(max(every, key=lambda one: len(pairs(one) & missing)))
        missing -= pairs(found[-1])
    return found


def flags(settings: Mapping[str, str]) -> list[str]:
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3)).astype(np.uint8)


DETECTOR = {
    "image_size": "64",
    "backbone.weights": "none",
    "reconstruction": "{channel_mult: [1], num_res_blocks: 1, num_head_channels: 8}",
    "afs.init_batches": "1",
    "train.batch_size": "2",
    "train.num_steps": "2",
    "train.evaluation": "false",
    "calibration.num_anomalies": "2",
    "anomalies.dtd_root": "dtd",
}


def rows(first: Mapping[str, Sequence[str]], second: Mapping[str, Sequence[str]]) -> list[tuple[dict, dict]]:
    """Return the pairs of settings of two groups; of the smaller some stand twice, and both come whole."""
    one, other = pairwise(first), pairwise(second)
    assert len(one) >= len(other)
    return list(zip(one, cycle(other), strict=False))


def name(settings: dict[str, str]) -> str:
    return " ".join(settings.values())


WIDE = ({"blocks": NETWORKS["blocks"][0], "backbone.name": "wide_resnet50_2"}, {"anomalies.types": "{self: 1}"})


@pytest.mark.parametrize(("network", "data"), [*rows(NETWORKS, DATA), WIDE], ids=name)
def test_detectors_train(tiny, run_script, network, data):
    for number in range(2):
        write_image(Path(f"dtd/woven/{number}.jpg"), noise(number))
        write_image(paths.sdas("tiny", "weave") / f"{number:05d}.jpg", noise(9 + number))
    run_script("train_realnet", "--dataset", "tiny", "--class_name", "weave", *flags(DETECTOR | network | data))
    trained = checkpoint.load(spoil.DETECTOR, kind="realnet")
    assert all(value.isfinite().all() for value in trained.state_dict.values())
    assert trained.facts["step"] == 2 and 0 < trained.facts["calibration"]["image_threshold"] <= 1


@pytest.mark.parametrize(("network", "sampling"), rows(GENERATION, SAMPLING), ids=name)
def test_diffusion_models_train_and_sample(tiny, run_script, network, sampling):
    settings = flags({"image_size": "16", "train.num_steps": "1"} | network)
    run_script("train_diffusion", "--dataset", "tiny", *settings, "--set", "validation.respacing=ddim2")
    if sampling["guidance"] == "true":
        run_script("train_classifier", "--dataset", "tiny", *settings)
    printed = run_script("sample", "--dataset", "tiny", "--num_samples", "1", *flags(sampling))
    assert ("no guidance" in printed) == (sampling["guidance"] == "true" and not spoil.CLASSIFIER.exists())
    for class_name in spoil.CLASSES:
        image = read_image(paths.sdas("tiny", class_name) / f"00000.{sampling['format']}")
        assert image.shape == (16, 16, 3) and image.std() > 0


def test_one_class_is_sampled_without_a_classifier(tiny, run_script):
    spoil.no_widget()
    run_script("train_diffusion", "--dataset", "tiny", *flags({"image_size": "16", "train.num_steps": "1"}))
    assert "one class needs none" in run_script("sample", "--dataset", "tiny", "--num_samples", "1")
    assert (paths.sdas("tiny", "weave") / "00000.jpg").is_file()
