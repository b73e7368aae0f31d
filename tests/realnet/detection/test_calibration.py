from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_detector
import torch
from alone import ALONE, denormalise

from realnet.anomalies.items import item_generator
from realnet.anomalies.synthesis import LocalAnomaly
from realnet.config import RealNetConfig
from realnet.data.images import write_image
from realnet.data.index import Entry
from realnet.data.registry import open_dataset
from realnet.detection.calibration import calibrate, holdout_share, split_holdout
from realnet.detection.detector import Detector
from realnet.detection.examples import draw_examples
from realnet.models import checkpoint
from realnet.runtime import placement
from realnet.training.detector_data import detector_data


class Brightness(torch.nn.Module):
    """A detector to whom white is anomalous: the map is the image's brightness."""

    def forward(self, image):
        return SimpleNamespace(anomaly_map=denormalise(image)[:, :1] / 255, scored=None)


class WhiteSquare:
    """Draws a square of the next brightness in turn; of brightness 0: nothing."""

    def __init__(self, *brightness):
        self.brightness, self.draws = brightness, []

    def synthesize(self, image, rng, *, only_anomalous):
        assert only_anomalous
        level = self.brightness[len(self.draws) % len(self.brightness)]
        self.draws.append(rng.random())
        mask = np.zeros(image.shape[:2], bool)
        mask[4:12, 4:12] = level > 0
        return LocalAnomaly(np.where(mask[..., None], level, image).astype(np.uint8), mask, "self")


def entries(number):
    return [Entry(f"{i}.png", 0, "good", "c") for i in range(number)]


def calibrated(folder, levels, synthesizer, *, num_anomalies=4, model=None, held_out=True):
    for index, level in enumerate(levels):
        write_image(folder / f"{index}.png", np.full((16, 16, 3), level, np.uint8))
    config = RealNetConfig.model_validate(
        {
            "image_size": 16,
            "calibration": {"num_anomalies": num_anomalies},
            "evaluation": {"score_pool": 4, "batch_size": 3},
        }
    )
    examples = draw_examples(entries(len(levels)), folder, synthesizer, config)
    return calibrate(model or Brightness(), examples, config=config, world=ALONE, held_out=held_out)


def test_the_thresholds_lie_between_normal_and_anomalous(tmp_path):
    found = calibrated(tmp_path, [10, 40], WhiteSquare(200, 160, 240, 180))
    assert found.image_threshold == pytest.approx((40 + 160) / 2 / 255)
    assert found.pixel_threshold == pytest.approx(160 / 255)
    assert found.display_scale == pytest.approx(240 / 255)
    assert (found.held_out, found.num_images, found.num_anomalies) == (True, 2, 4)


def test_few_normal_images_weigh_as_much_as_many_anomalies(tmp_path):
    # the best F1 would call all nine a defect for the sake of two anomalies that are darker than the normal image
    found = calibrated(tmp_path, [100], WhiteSquare(50, 50, *[200] * 6), num_anomalies=8)
    assert found.image_threshold == pytest.approx((100 + 200) / 2 / 255)


def test_images_are_used_once_and_evenly_spread(tmp_path):
    few, many = WhiteSquare(200), WhiteSquare(200)
    assert calibrated(tmp_path, [10, 20], few, num_anomalies=5).num_images == 2
    assert len(few.draws) == len(set(few.draws)) == 5
    found = calibrated(tmp_path, [0, 250, 250, 250, 250, 0], many, num_anomalies=2)
    assert found.num_images == 2
    assert found.image_threshold == pytest.approx(100 / 255)  # of the first and the last image


def test_draws_are_fixed_by_the_seed_and_are_none_of_training(tmp_path):
    first, again = WhiteSquare(200), WhiteSquare(200)
    assert calibrated(tmp_path, [10, 20], first) == calibrated(tmp_path, [10, 20], again)
    assert first.draws == again.draws
    seed = RealNetConfig().seed
    training = {item_generator(seed, epoch, i).random() for epoch in range(50) for i in range(2)}
    assert not training & set(first.draws)


def test_what_cannot_be_calibrated_is_said(tmp_path, caplog):
    with caplog.at_level("WARNING", "realnet"):
        assert calibrated(tmp_path, [10, 20], WhiteSquare(0)) is None
    assert "no local anomaly fell on the object" in caplog.text

    class Diverged(Brightness):
        def forward(self, image):
            return SimpleNamespace(anomaly_map=image[:, :1] * float("nan"), scored=None)

    with caplog.at_level("WARNING", "realnet"):
        assert calibrated(tmp_path, [10, 20], WhiteSquare(200), model=Diverged()) is None
    assert "NaN" in caplog.text


def test_the_model_and_the_random_numbers_stay_as_they_are(tiny):
    config, model = tiny_detector.config(), tiny_detector.build().train()
    data = detector_data(open_dataset("tiny"), "weave", config)
    torch.manual_seed(3)
    state, before = torch.get_rng_state(), {key: value.clone() for key, value in model.state_dict().items()}
    first, second = (
        calibrate(
            model,
            draw_examples(data.train, data.image_root, data.synthesizer, config),
            config=config,
            world=ALONE,
            held_out=False,
        )
        for _ in range(2)
    )
    assert first == second
    assert 0 < first.image_threshold < 1 and 0 < first.pixel_threshold <= first.display_scale <= 1
    assert model.training and not model.backbone.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("number", "fraction", "expected"),
    [(10, 0.0, 0), (10, 0.2, 2), (10, 0.01, 1), (2, 0.9, 1), (1, 0.5, 0), (0, 0.5, 0)],
)
def test_split_holdout(number, fraction, expected):
    everything = entries(number)
    kept, held = split_holdout(everything, fraction)
    assert len(held) == expected
    assert sorted(kept + held, key=everything.index) == everything


def test_enough_images_are_held_out_or_none():
    def share(number, **settings):
        return holdout_share(
            RealNetConfig.model_validate({"calibration": {"holdout_fraction": "auto"}} | settings), number
        )

    assert [round(share(number) * number) for number in (6, 127, 128, 200, 320, 1000)] == [0, 0, 32, 32, 32, 100]
    assert share(60, features={"normalise": "channel"}) == 0.1
    assert holdout_share(RealNetConfig(), 1000) == 0


def test_held_out_images_are_spread():
    _, held = split_holdout(entries(60), 0.1)
    numbers = [int(entry.filename.removesuffix(".png")) for entry in held]
    assert len(numbers) == 6 and min(np.diff(numbers)) >= 8 and numbers[0] > 4 and numbers[-1] < 56


def recalibrated(name):
    detector = Detector.load(f"experiments/tiny/realnet_checkpoints/weave/{name}", device="cpu")
    data = detector_data(open_dataset("tiny"), "weave", detector.config)
    examples = draw_examples(data.held_out, data.image_root, data.synthesizer, detector.config)
    made = calibrate(detector.model, examples, config=detector.config, world=ALONE, held_out=True)
    return asdict(made)


def test_training_stores_the_calibration_and_is_not_changed_by_it(tiny, run_script, monkeypatch):
    monkeypatch.setattr(placement, "pack_convolutions", lambda network: None)  # which rounds otherwise than training

    def trained(*overrides):
        arguments = [argument for override in overrides for argument in ("--set", override)]
        run_script("train_realnet", "--dataset", "tiny", "--class_name", "weave", "--no-resume", *arguments)
        folder = tiny / "experiments/tiny/realnet_checkpoints/weave"
        return [checkpoint.load(folder / name, kind="realnet") for name in ("ckpt_last.pth", "ckpt_best.pth")]

    last, best = trained("calibration.holdout_fraction=0.3")
    for found in (last, best):
        calibration = found.facts["calibration"]
        assert calibration["held_out"] is True and calibration["num_images"] == 2
        assert all(isinstance(value, (float, int, str)) for value in calibration.values())
    assert last.facts["calibration"] == recalibrated("ckpt_last.pth")
    other, _ = trained("calibration.holdout_fraction=0.3", "calibration.num_anomalies=3")
    assert other.facts["calibration"]["num_anomalies"] == 3
    assert all(torch.equal(value, other.state_dict[key]) for key, value in last.state_dict.items())
    all_images, _ = trained()
    assert all_images.facts["calibration"]["held_out"] is False
    assert asdict(tiny_detector.CALIBRATION).keys() == all_images.facts["calibration"].keys()


def test_the_images_of_a_part_are_held_out_together():
    names = [f"{part}_{view}" for part in range(10) for view in range(3)]
    grouped = [Entry(name, 0, "good", "c", group=name[:1]) for name in names]
    trained, held = split_holdout(grouped, 0.1)
    assert (len(trained), len(held)) == (27, 3) and len({entry.group for entry in held}) == 1
    assert len(split_holdout([Entry(name, 0, "good", "c") for name in names], 0.1)[1]) == 3
