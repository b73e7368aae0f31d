import copy
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_detector
import torch
from conftest import ROOT
from PIL import Image

from realnet import Detector, UserError
from realnet.data.images import read_image
from realnet.models import checkpoint
from realnet.models.statistics import IMAGENET, Statistics


@pytest.fixture
def detector(tiny):
    return Detector.load(tiny_detector.save("weave"), device="cpu", dataset="tiny", class_name="weave")


@pytest.fixture
def pictures(tiny):
    return sorted(Path("data/tiny/images/weave/test").rglob("*.png"))


def test_the_loaded_network_is_the_saved_one(detector):
    expected = tiny_detector.build().state_dict()
    for key, value in detector.model.state_dict().items():
        assert torch.equal(value, expected[key]), key
    assert not detector.model.training
    assert detector.calibration == tiny_detector.CALIBRATION and detector.facts["step"] == 4


def test_a_picture_may_come_in_any_form(detector, pictures):
    path = pictures[0]
    array = read_image(path)
    first = detector.predict(path)
    assert first.anomaly_map.shape == (32, 32) and first.anomaly_map.dtype == np.float32
    assert 0 <= first.anomaly_map.min() <= first.image_score <= first.anomaly_map.max() <= 1
    for form in (str(path), array, Image.open(path), Image.open(path).convert("RGBA")):
        same = detector.predict(form)
        assert same.image_score == first.image_score
        np.testing.assert_array_equal(same.anomaly_map, first.anomaly_map)
    assert [one.image_score for one in detector.predict(np.stack([array, array]))] == [first.image_score] * 2
    assert detector.predict([]) == []


@pytest.mark.parametrize("mode", ["L", "I;16", "P", "LA", "1", "RGBA"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_file_and_its_pil_image_are_the_same_picture(detector, tmp_path, mode, orientation):
    values = np.random.default_rng(0).integers(0, 256, (40, 70)).astype(np.uint8)
    picture = Image.fromarray(values.astype(np.uint16) * 256 + 77 if mode == "I;16" else values)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "x.png"
    (picture if mode == "I;16" else picture.convert(mode)).save(path, exif=exif)
    assert Image.open(path).mode == mode
    by_path, opened = detector.predict([path, Image.open(path)])
    np.testing.assert_array_equal(by_path.anomaly_map, opened.anomaly_map)
    assert by_path.image_score == opened.image_score


def test_alone_and_among_others_an_image_is_predicted_to_the_same_bit(detector, pictures):
    together = detector.predict(pictures)
    backwards = detector.predict(pictures[::-1])[::-1]
    assert len({one.image_score for one in together}) == len(pictures)
    for path, one, other in zip(pictures, together, backwards, strict=True):
        alone = detector.predict(path)
        assert alone.image_score == one.image_score == other.image_score
        assert alone.anomaly_map.tobytes() == one.anomaly_map.tobytes() == other.anomaly_map.tobytes()


def test_the_map_has_the_size_of_the_picture(detector):
    picture = np.random.default_rng(0).integers(0, 256, (40, 70, 3)).astype(np.uint8)
    assert detector.predict(picture).anomaly_map.shape == (40, 70)


@pytest.mark.parametrize("threshold", [float("nan"), -0.1, 1.1, float("inf")])
def test_a_threshold_that_no_score_can_be_is_refused(detector, pictures, threshold):
    with pytest.raises(UserError, match=rf"threshold {threshold} must be an image score, from 0 to 1"):
        detector.predict(pictures[0], threshold=threshold)


def test_the_verdict_follows_the_threshold(tiny, detector, pictures):
    one = detector.predict(pictures[0])
    assert one.threshold == tiny_detector.CALIBRATION.image_threshold
    assert one.verdict == ("defect" if one.image_score >= one.threshold else "normal")
    assert detector.predict(pictures[0], threshold=one.image_score).verdict == "defect"
    assert detector.predict(pictures[0], threshold=np.nextafter(one.image_score, 1)).verdict == "normal"
    bare = Detector.load(tiny_detector.save("widget", calibration=None), device="cpu")
    assert bare.calibration is None and bare.predict(pictures[0]).verdict is None
    assert bare.predict(pictures[0], threshold=0.0).verdict == "defect"


@pytest.mark.parametrize(
    "picture",
    [
        *(np.zeros(shape, np.uint8) for shape in [(8, 8, 4), (0, 0, 3), (8, 0, 3), (8,), (3, 8, 8), (2, 8, 8)]),
        *(np.zeros((8, 8), dtype) for dtype in (np.int64, bool, "U1", object)),
        Image.new("RGB", (0, 8)),
        torch.zeros(4, 8, 8),
        torch.zeros(8, 8, dtype=torch.int64),
        np.zeros((2, 2, 8, 8, 3)),
        None,
        7,
        b"bytes",
        {"image": 1},
        [None],
        [[1, 2]],
    ],
)
def test_what_is_no_image_is_refused_in_one_message(detector, picture):
    with pytest.raises(UserError, match=r"must be a path, a PIL image, an array \(H, W\) or .*, but this one is \S+"):
        detector.predict(picture)


@pytest.mark.parametrize("low_high", [(-2.1, 2.6), (0, 255), (0, np.nan)])
def test_floats_of_another_range_are_refused_with_theirs(detector, low_high):
    picture = np.linspace(*low_high, 8 * 8 * 3).reshape(8, 8, 3)
    for form in (picture, torch.from_numpy(np.moveaxis(picture, -1, 0).copy())):
        with pytest.raises(UserError, match=r"must lie in \[0, 1\], but this one lies in \[\S+, \S+\]; divide"):
            detector.predict(form)


def test_arrays_and_tensors_are_the_same_picture(detector, pictures):
    array = read_image(pictures[0])
    first = detector.predict(array)
    tensor = torch.from_numpy(np.moveaxis(array, -1, 0).copy())
    forms = [array / 255, (array / 255).astype(np.float32), array.astype(np.uint16) * 257, tensor, tensor / 255]
    forms += [torch.from_numpy(array), tensor.double().requires_grad_(False) / 255]
    for form in forms:
        np.testing.assert_array_equal(detector.predict(form).anomaly_map, first.anomaly_map)
    batch = detector.predict(torch.stack([tensor, tensor]))
    assert [one.image_score for one in batch] == [first.image_score] * 2
    grey = array[..., 1]
    by_colour = detector.predict(np.repeat(grey[..., None], 3, axis=2))
    for form in (grey, grey[..., None], torch.from_numpy(grey), Image.fromarray(grey)):
        np.testing.assert_array_equal(detector.predict(form).anomaly_map, by_colour.anomaly_map)
    for empty in ([], (), np.zeros((0, 8, 8, 3), np.uint8), torch.zeros(0, 3, 8, 8)):
        assert detector.predict(empty) == []


def test_a_generator_is_asked_for_an_image_when_its_prediction_is(detector, pictures):
    asked = []

    def images():
        for path in pictures:
            asked.append(path)
            yield path

    found = detector.predict(images())
    assert asked == []
    first = next(found)
    assert asked == pictures[:1]
    together = [one.image_score for one in detector.predict(pictures)]
    assert [first.image_score, *(one.image_score for one in found)] == together
    assert list(detector.predict(iter([]))) == []


def test_16_bit_images_are_read_with_the_bits_that_the_detector_learnt(tiny, pictures):
    path = tiny_detector.save("weave")
    values = torch.load(path, weights_only=True)
    values["facts"]["image_bits"] = 12
    torch.save(values, path)
    detector = Detector.load(path, device="cpu")
    array = read_image(pictures[0])
    first = detector.predict(array)
    deep = array.astype(np.uint16) * 16 + 7
    cv2.imwrite("deep.png", deep[..., ::-1])
    Image.fromarray(deep[..., 1]).save("grey.png")
    for form in (deep, "deep.png"):
        np.testing.assert_array_equal(detector.predict(form).anomaly_map, first.anomaly_map)
    by_path, opened = detector.predict(["grey.png", Image.open("grey.png")])
    np.testing.assert_array_equal(by_path.anomaly_map, opened.anomaly_map)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_a_pil_image_of_no_known_range_is_refused(detector, mode):
    with pytest.raises(UserError, match=f"PIL image of mode '{mode}' has no known range"):
        detector.predict(Image.new(mode, (8, 8)))


def test_a_foreign_checkpoint_is_refused_by_name(tiny, detector):
    path = tiny / "experiments/tiny/realnet_checkpoints/weave/ckpt_last.pth"
    with pytest.raises(UserError, match="class 'weave', but 'widget' is needed"):
        Detector.load(path, class_name="widget")
    with pytest.raises(UserError, match="dataset 'tiny', but 'other' is needed"):
        Detector.load(path, dataset="other")
    with pytest.raises(UserError, match=r"make it with: python train_realnet\.py --dataset tiny --class_name widget"):
        Detector.load("absent.pth", dataset="tiny", class_name="widget")


def test_other_weights_of_the_backbone_are_refused(tiny):
    path = tiny_detector.save("weave")
    values = torch.load(path, weights_only=True)
    values["facts"]["backbone"]["checksum"] = "0" * 64
    checkpoint.write(path, values)
    with pytest.raises(UserError, match=r"other weights of test_resnet \(checksum 000000000000…"):
        Detector.load(path, device="cpu")


def test_a_config_of_another_version_is_refused(tiny):
    path = tiny_detector.save("weave")
    values = torch.load(path, weights_only=True)
    values["config"]["rrs"]["of_tomorrow"] = 1
    checkpoint.write(path, values)
    with pytest.raises(UserError, match=r"does not accept \(rrs\.of_tomorrow"):
        Detector.load(path, device="cpu")


def test_a_published_checkpoint_gives_the_same_maps(tiny, detector, pictures):
    path = tiny_detector.save_published(tiny / "published.pth.tar")
    with pytest.raises(UserError, match="give the config that describes it"):
        Detector.load(path, device="cpu")
    published = Detector.load(path, device="cpu", config=tiny_detector.config())
    assert published.calibration is None and published.facts["epoch"] == 3
    for path in pictures:
        np.testing.assert_array_equal(published.predict(path).anomaly_map, detector.predict(path).anomaly_map)


def test_this_machines_settings_replace_the_stored_ones(tiny, detector, caplog):
    config = tiny_detector.config()
    evaluation = config.evaluation.model_copy(update={"score_pool": 8})
    runtime = config.runtime.model_copy(update={"precision": "bf16"})
    config = config.model_copy(update={"image_size": (64, 64), "evaluation": evaluation, "runtime": runtime})
    with caplog.at_level("WARNING", "realnet"):
        loaded = Detector.load("experiments/tiny/realnet_checkpoints/weave/ckpt_last.pth", device="cpu", config=config)
    assert loaded.precision.dtype == torch.bfloat16 and loaded.config.evaluation.score_pool == 8
    assert loaded.config.image_size == (32, 32)  # the network's own
    assert loaded.calibration is None and "calibrated with evaluation.score_pool 16" in caplog.text


def test_the_package_imports_the_detector_only_when_asked():
    code = "import sys, realnet; assert 'torch' not in sys.modules and 'Detector' in realnet.__all__; realnet.nothing"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.stderr.strip().endswith("AttributeError: module 'realnet' has no attribute 'nothing'")


def test_the_backbones_weights_come_from_where_they_are_to_be_had(tiny, tmp_path):
    path, here = tiny_detector.save("weave"), tiny_detector.config()
    file = tmp_path / "backbone.pth"
    torch.save(tiny_detector.build().backbone.feature_extractor.state_dict(), file)

    def used(trained: str, configured: str) -> str:
        values = torch.load(path, weights_only=True)
        values["config"]["backbone"]["weights"] = trained
        torch.save(values, path)
        backbone = here.backbone.model_copy(update={"weights": configured})
        config = here.model_copy(update={"backbone": backbone})
        return Detector.load(path, device="cpu", config=config).config.backbone.weights

    assert used(trained=str(file), configured="hub") == str(file)
    assert used(trained="none", configured="hub") == "none"
    assert used(trained="elsewhere.pth", configured=str(file)) == str(file)
    assert used(trained="hub", configured=str(file)) == str(file)
    assert used(trained="elsewhere.pth", configured="none") == "none"


def test_backbone_weights_that_lie_elsewhere_are_given(tiny, tmp_path, monkeypatch):
    path = tiny_detector.save("weave").absolute()
    torch.save(tiny_detector.build().backbone.feature_extractor.state_dict(), "backbone.pth")
    values = torch.load(path, weights_only=True)
    values["config"]["backbone"]["weights"] = "backbone.pth"
    torch.save(values, path)
    Detector.load(path, device="cpu")
    monkeypatch.chdir(tmp_path / "data")
    with pytest.raises(UserError, match=r" backbone\.pth, which do not exist .*load\(…, backbone_weights=FILE\)"):
        Detector.load(path, device="cpu")
    given = Detector.load(path, device="cpu", backbone_weights=tmp_path / "backbone.pth")
    assert given.config.backbone.weights == str(tmp_path / "backbone.pth")


def test_images_are_normalised_as_in_training_and_by_imagenet_where_a_file_does_not_say(tiny):
    path = tiny_detector.save("weave")
    values = torch.load(path, weights_only=True)
    values["config"]["backbone"] |= {"name": "test_resnet.r160_in1k", "mean": None, "std": None}  # its own are others
    torch.save(values, path)
    assert Detector.load(path, device="cpu").model.backbone.statistics == IMAGENET
    values["facts"]["backbone"] |= {"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]}
    torch.save(values, path)
    detector = Detector.load(path, device="cpu")
    assert detector.model.backbone.statistics == Statistics((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    assert detector.config.backbone.mean == (0.5, 0.4, 0.3)


def test_other_levels_of_the_backbone_are_refused(tiny):
    path = tiny_detector.save("weave")
    values = torch.load(path, weights_only=True)
    values["facts"]["backbone"]["levels"] = [["layer1", 64, 8]]
    torch.save(values, path)
    told = r"other levels of test_resnet: \[\['layer1', 64, 8\]\] .*; install the version"
    with pytest.raises(UserError, match=told):
        Detector.load(path, device="cpu")


def test_a_detector_keeps_its_scores_when_its_file_is_overwritten_in_place(tiny, pictures):
    path = tiny_detector.save("weave")
    detector = Detector.load(path, device="cpu")
    with path.open("r+b") as file:  # the same pages on disk, as rsync --inplace and cp write them
        file.write(bytes(path.stat().st_size))
    assert (
        detector.predict(pictures[0]).image_score
        == Detector.load(tiny_detector.save("weave"), device="cpu").predict(pictures[0]).image_score
    )


def test_a_detector_can_be_copied_and_sent_to_another_process(detector, pictures):
    expected = detector.predict(pictures[0])
    for same in (copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))):  # a spawned process gets a pickle
        assert same.predict(pictures[0]).image_score == expected.image_score
        assert (same.config, same.calibration, same.facts) == (detector.config, detector.calibration, detector.facts)
