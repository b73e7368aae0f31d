from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from alone import ALONE, FP32, denormalise

from realnet.config import EvaluationConfig, RuntimeConfig
from realnet.data.images import read_image, write_image
from realnet.data.index import Entry
from realnet.errors import UserError
from realnet.evaluation.files import TestFiles
from realnet.evaluation.run import notes_on
from realnet.evaluation.scores import METRICS, ClassScores, Metric, curves_of, mean_over_classes, score_split, summarise
from realnet.evaluation.split import TestSplit
from realnet.runtime import distributed
from realnet.runtime.distributed import World


class Brightness(torch.nn.Module):
    """A detector whose map is the image's brightness."""

    def forward(self, image):
        assert not self.training
        return SimpleNamespace(anomaly_map=denormalise(image)[:, :1] / 255, scored=None)


def make_split(folder, number=5, world=ALONE, **changes):
    """Grey images, each brighter than the one before; the odd ones are defects, the last without a mask."""
    entries = []
    for index in range(number):
        write_image(folder / f"{index}.png", np.full((20, 24, 3), 10 + 20 * index, np.uint8))
        mask = np.zeros((20, 24), bool)
        mask[:10] = index % 2
        write_image(folder / f"{index}_mask.png", mask)
        maskname = f"{index}_mask.png" if index == 1 else None
        entries.append(Entry(f"{index}.png", index % 2, "", "c", maskname))
    runtime = RuntimeConfig(num_workers=changes.pop("num_workers", 0))
    return TestSplit(TestFiles(entries, folder, (16, 16), **changes), runtime=runtime, world=world)


def scored(split, **changes):
    model = Brightness()
    config = EvaluationConfig(**{"batch_size": 2, "score_pool": 4, **changes})
    found = score_split(model, split, config=config, precision=FP32)
    assert model.training
    return found


def test_every_image_is_scored_once_in_order(tmp_path):
    scores = scored(make_split(tmp_path))
    np.testing.assert_allclose(scores.image_scores * 255, [10, 30, 50, 70, 90], rtol=1e-5)
    assert scores.anomaly_maps.shape == scores.masks.shape == (5, 16, 16)
    assert scores.labels.tolist() == [0, 1, 0, 1, 0]
    assert scores.has_mask.tolist() == [True, True, True, False, True]
    assert scores.masks[1, :8].all() and not scores.masks[1, 8:].any() and not scores.masks[3].any()


@pytest.mark.parametrize("resolution", ["input", "file"])
def test_images_of_several_classes_are_scored_as_each_class_by_itself(tmp_path, resolution):
    dark, bright = (make_split(tmp_path / name, number) for name, number in (("dark", 4), ("bright", 5)))
    entries = [
        replace(entry, class_name=name, **{key: value and f"{name}/{value}" for key, value in names_of(entry).items()})
        for name, split in (("dark", dark), ("bright", bright))
        for entry in split.entries
    ]
    mixed = [entries[number] for number in (4, 0, 5, 1, 2, 6, 7, 3, 8)]
    files = TestFiles(mixed, tmp_path, (16, 16), mask_resize="regions")
    together = scored(TestSplit(files, runtime=RuntimeConfig(num_workers=0), world=ALONE), resolution=resolution)
    parts = {part.entries[0].class_name: part for part in together.by_class()}
    assert list(parts) == ["bright", "dark"] and parts["dark"].by_class() == [parts["dark"]]
    for name, split in (("dark", dark), ("bright", bright)):
        alone = scored(split, resolution=resolution)
        assert [entry.filename for entry in parts[name].entries] == [f"{name}/{e.filename}" for e in alone.entries]
        assert summarise(curves_of(parts[name])) == summarise(curves_of(alone))
    assert summarise(curves_of(together)) != summarise(curves_of(parts["bright"]))


def names_of(entry):
    return {"filename": entry.filename, "maskname": entry.maskname}


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_several_processes_share_the_images(tmp_path, monkeypatch, world_size):
    alone = scored(make_split(tmp_path))
    splits = [make_split(tmp_path, world=World(rank, world_size, FP32)) for rank in range(world_size)]
    for split in splits:
        list(split.batches(2))
    shares = {"maps": [alone.anomaly_maps[rank::world_size] for rank in range(world_size)]}
    shares["scores"] = [alone.image_scores[rank::world_size, None] for rank in range(world_size)]
    for name in ("_masks", "_has_mask", "_counts"):
        shares[name] = [getattr(split, name) for split in splits]
    assert sum(split.num_own for split in splits) == 5

    def gather(value):
        if isinstance(value, str):
            return [value]
        return next(each for each in shares.values() if np.array_equal(each[1], value) and each[1].dtype == value.dtype)

    monkeypatch.setattr(distributed, "gather", gather)
    together = scored(splits[1])
    for name in ("anomaly_maps", "image_scores", "masks", "has_mask"):
        np.testing.assert_array_equal(getattr(together, name), getattr(alone, name))


def test_an_unusable_image_is_named_without_a_traceback(tmp_path):
    split = make_split(tmp_path, num_workers=1)
    (tmp_path / "4.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"^\S+4\.png \(8 bytes\) is truncated, or not an image"):
        scored(split, batch_size=1)


def test_a_process_hears_of_the_others_problems(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "gather", lambda share: [share, "b.png is no image", "c.png is no image"])
    with pytest.raises(UserError, match=r"^b\.png is no image\nc\.png is no image$"):
        scored(make_split(tmp_path))


def scratched(folder):
    """A normal image and one with a thin scratch, brighter than all else, and its mask."""
    mask = np.zeros((160, 160), np.uint8)
    cv2.line(mask, (3, 20), (150, 90), 1, 1)
    for name, pixels in {"0": mask * 0 + 20, "1": 20 + 200 * mask}.items():
        write_image(folder / f"{name}.png", np.repeat(pixels[..., None], 3, axis=2))
    write_image(folder / "1_mask.png", mask > 0)
    return [Entry("0.png", 0, "", "c"), Entry("1.png", 1, "", "c", "1_mask.png")]


def scratch_scores(folder, resolution="input", **changes):
    runtime = RuntimeConfig(num_workers=0)
    split = TestSplit(TestFiles(scratched(folder), folder, (40, 40), **changes), runtime=runtime, world=ALONE)
    return scored(split, resolution=resolution)


def test_a_thin_region_is_one_where_it_is_asked_for_and_else_a_note_says_what_became_of_it(tmp_path):
    nearest = scratch_scores(tmp_path)
    assert nearest.regions is None
    pieces = cv2.connectedComponents(nearest.masks[1].astype(np.uint8))[0] - 1
    assert pieces > 5
    (note,) = notes_on(nearest)
    assert note.startswith(f"of 1 regions in the masks 1 are {pieces} pieces at 40x40 pixels; evaluation.mask_")
    whole = scratch_scores(tmp_path, mask_resize="regions")
    assert whole.regions.max() == 1 and np.array_equal(whole.masks, whole.regions > 0) and whole.masks.sum() >= 37
    assert list(notes_on(whole)) == []
    assert summarise(curves_of(whole))["aupro"].value > summarise(curves_of(nearest))["aupro"].value


def test_at_the_files_own_size_all_pixels_of_the_files_count(tmp_path):
    scores = scratch_scores(tmp_path, resolution="file")
    curve = curves_of(scores).pixel
    length = int((read_image(tmp_path / "1_mask.png")[..., 0] > 0).sum())
    assert curve.num_defect == length and curve.num_normal + length == 2 * 160 * 160
    assert list(notes_on(scores)) == [] and curve.auroc > 0.99


def class_scores(maps, labels, masks, has_mask=None):
    maps = np.asarray(maps, np.float32)
    return ClassScores(
        entries=[],
        anomaly_maps=maps,
        image_scores=maps.max(axis=(1, 2), initial=0).astype(np.float64),
        labels=np.asarray(labels, np.int64),
        masks=np.asarray(masks, bool),
        has_mask=np.ones(len(maps), bool) if has_mask is None else np.asarray(has_mask),
    )


NORMAL, DEFECT = [[0.1, 0.4]], [[0.2, 0.3]]


def test_metrics_equal_hand_computed_values():
    metrics = summarise(curves_of(class_scores([NORMAL, DEFECT], [0, 1], [[[0, 0]], [[0, 1]]])))
    assert tuple(metrics) == METRICS
    values = {name: metric.value for name, metric in metrics.items()}
    assert values["image_auroc"] == 0  # and not 1 - 0
    assert values["pixel_auroc"] == pytest.approx(2 / 3)
    assert values["image_ap"] == 0.5 and values["pixel_ap"] == 0.5
    assert values["image_f1_max"] == pytest.approx(2 / 3) and values["pixel_f1_max"] == pytest.approx(2 / 3)
    assert values["aupro"] == 0  # the region is found at a false positive rate of 1/3, beyond 0.3
    far = summarise(curves_of(class_scores([NORMAL, DEFECT], [0, 1], [[[0, 0]], [[0, 1]]])), fpr_limit=1.0)
    assert far["aupro"].value == pytest.approx(2 / 3)


def test_images_without_a_mask_count_for_image_metrics_alone():
    whole = class_scores([NORMAL, DEFECT, [[1, 1]]], [0, 1, 1], [[[0, 0]], [[0, 1]], [[0, 0]]], [True, True, False])
    metrics = summarise(curves_of(whole))
    assert metrics["pixel_auroc"].value == pytest.approx(2 / 3)
    assert metrics["image_auroc"].value == 0.5


@pytest.mark.parametrize(
    ("scores", "image_reason", "pixel_reason"),
    [
        (class_scores(np.zeros((0, 1, 2)), [], np.zeros((0, 1, 2))), "no images", "no images"),
        (class_scores([NORMAL], [0], [[[0, 0]]]), "no defect image", "no defect image"),
        (class_scores([DEFECT], [1], [[[0, 1]]]), "no normal image", None),
        (
            class_scores([NORMAL, DEFECT], [0, 1], np.zeros((2, 1, 2)), [True, False]),
            None,
            "no defect image has a mask",
        ),
    ],
)
def test_what_cannot_be_computed_says_why(scores, image_reason, pixel_reason):
    for name, metric in summarise(curves_of(scores)).items():
        reason = image_reason if name.startswith("image") else pixel_reason
        assert metric.reason == reason and (metric.value is None) == (reason is not None)
        assert str(metric) == "–" or reason is None


def test_the_mean_is_over_the_classes_that_have_the_metric():
    full = {name: Metric(0.5) for name in METRICS}
    less = {**full, "image_auroc": Metric(1.0), "aupro": Metric(None, "no images")}
    mean = mean_over_classes([full, less])
    assert mean["image_auroc"] == Metric(0.75) and mean["aupro"] == Metric(0.5)
    assert mean_over_classes([less])["aupro"].value is None


@pytest.mark.parametrize("mask_resize", ["nearest", "regions"])
def test_many_pixels_are_counted_image_by_image_with_the_same_result(tmp_path, monkeypatch, mask_resize):
    found = scored(make_split(tmp_path, mask_resize=mask_resize))
    at_once = summarise(curves_of(found))
    monkeypatch.setattr("realnet.evaluation.scores.PIXELS_AT_ONCE", 0)
    monkeypatch.setattr("realnet.evaluation.scores.pixel_curve", None)
    assert summarise(curves_of(found)) == at_once and at_once["aupro"].value is not None
