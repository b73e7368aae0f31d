import numpy as np
import pytest

from realnet.anomalies.real import FEATHER, RealDefects, find_real, paste
from realnet.anomalies.synthesis import AnomalySynthesizer
from realnet.config import AnomalyConfig, DatasetConfig, MaskRule, RealDefectConfig
from realnet.data.images import write_image
from realnet.data.index import ClassIndex, Entry, write_index
from realnet.data.registry import OpenDataset
from realnet.data.tiles import Tiling
from realnet.errors import UserError
from realnet.inspection.repeats import Marked

SIZE = (64, 80)
PLAIN = RealDefectConfig(opacity=(1, 1), scale=(1, 1), turn=0)
DARK, PRODUCT, OTHER_LIGHT = 40, 120, 170


def photograph(folder, *boxes, level=DARK):
    """A plain product with a defect in each box (rows, columns), and the mask of all."""
    image, mask = np.full((*SIZE, 3), PRODUCT, np.uint8), np.zeros(SIZE, bool)
    for rows, columns in boxes:
        image[slice(*rows), slice(*columns)] = level
        mask[slice(*rows), slice(*columns)] = True
    files = Marked(folder / f"{len(list(folder.glob('*')))}.png", folder / f"{len(list(folder.glob('*')))}_mask.png")
    write_image(files.image, image)
    write_image(files.mask, mask)
    return files


def pastes(defects, count=12, *, image=None, foreground=None, config=PLAIN):
    image = np.full((*SIZE, 3), OTHER_LIGHT, np.uint8) if image is None else image
    everywhere = np.ones(SIZE, bool)
    foreground = everywhere if foreground is None else foreground
    return [paste(image, foreground, defects, config, np.random.default_rng(seed)) for seed in range(count)]


def test_a_defect_takes_the_tone_of_its_new_place_and_changes_nothing_else(tmp_path):
    defects = RealDefects([photograph(tmp_path, ((20, 28), (30, 36)))], SIZE)
    drawn = pastes(defects)
    assert len({found.mask.tobytes() for found in drawn}) > 8
    for found in drawn:
        assert 40 <= found.mask.sum() <= 48
        assert (abs(found.image[found.mask].astype(int) - (OTHER_LIGHT - PRODUCT + DARK)) <= 1).all()
        rows, columns = np.nonzero((found.image != OTHER_LIGHT).any(axis=2))
        own = np.nonzero(found.mask)
        assert rows.min() >= own[0].min() - FEATHER and columns.max() <= own[1].max() + FEATHER


def test_the_mask_holds_the_pixels_that_changed_within_the_foreground(tmp_path):
    half = np.arange(80)[None, :].repeat(64, axis=0) < 40
    patchy = photograph(tmp_path, ((20, 30), (30, 40)))
    pixels = np.full((*SIZE, 3), PRODUCT, np.uint8)
    pixels[20:25, 30:40] = DARK  # of the mask, only the upper half is a defect
    write_image(patchy.image, pixels)
    image = np.full((*SIZE, 3), PRODUCT, np.uint8)
    for found in pastes(RealDefects([patchy], SIZE), image=image, foreground=half):
        assert found.mask.any() and not (found.mask & ~half).any() and found.mask.sum() <= 50
        assert (found.image[found.mask] != PRODUCT).any(axis=1).all()
    narrow = np.arange(80)[None, :].repeat(64, axis=0) < 4
    for found in pastes(RealDefects([patchy], SIZE), image=image, foreground=narrow):
        assert found is None or not (found.mask & ~narrow).any()
    assert (image == PRODUCT).all()
    assert pastes(RealDefects([patchy], SIZE), 1, foreground=np.zeros(SIZE, bool)) == [None]


def test_defects_are_scaled_and_turned(tmp_path):
    defects = RealDefects([photograph(tmp_path, ((30, 34), (20, 40)))], SIZE)
    config = RealDefectConfig(opacity=(1, 1), scale=(0.5, 2), turn=180)
    drawn = [one for one in pastes(defects, 40, config=config) if one]
    areas = [one.mask.sum() for one in drawn]
    heights = [np.ptp(np.nonzero(one.mask)[0]) + 1 for one in drawn]
    assert min(areas) < 40 and max(areas) > 160 and max(heights) > 15
    weak = pastes(defects, 1, config=RealDefectConfig(opacity=(0.5, 0.5), scale=(1, 1), turn=0))[0]
    assert (abs(weak.image[weak.mask].astype(int) - (OTHER_LIGHT - (PRODUCT - DARK) / 2)) <= 1).all()


def test_far_parts_of_a_mask_are_defects_of_their_own_and_thin_ones_outlast_resizing(tmp_path):
    two = photograph(tmp_path, ((10, 14), (10, 14)), ((40, 44), (60, 64)))
    thin = photograph(tmp_path, ((20, 21), (30, 50)))
    cuts = RealDefects([two, thin], (16, 20)).cuts
    assert [len(of_one) for of_one in cuts] == [2, 1]
    assert all(cut.mask.any() for of_one in cuts for cut in of_one)


def test_masks_follow_the_datasets_rule(tmp_path):
    files = photograph(tmp_path, ((20, 28), (30, 36)))
    inverted = np.full((*SIZE, 3), 255, np.uint8)
    inverted[20:28, 30:36] = 0
    write_image(files.mask, inverted)
    defects = RealDefects([files], SIZE, rule=MaskRule(background=(255, 255, 255)))
    assert defects.cuts[0][0].mask.sum() == 48


@pytest.mark.parametrize(("mask", "says"), [(np.zeros(SIZE, bool), "is empty"), (np.ones((5, 5), bool), "differ in")])
def test_masks_that_mark_nothing_are_refused_by_name(tmp_path, mask, says):
    files = photograph(tmp_path, ((20, 28), (30, 36)))
    write_image(files.mask, mask)
    with pytest.raises(UserError, match=rf"0_mask\.png.*{says}"):
        _ = RealDefects([files], SIZE).cuts


def test_items_with_real_defects_also_on_tiles(tmp_path):
    defects = RealDefects([photograph(tmp_path, ((20, 24), (30, 34)))], SIZE)
    config, image = AnomalyConfig(types={"real": 1}), np.full((*SIZE, 3), OTHER_LIGHT, np.uint8)
    for tiling, shape in ((None, SIZE), (Tiling(SIZE, (32, 32), 0.25), (32, 32))):
        synthesizer = AnomalySynthesizer(config, {}, image_size=SIZE, tiling=tiling, real=defects)
        drawn = [synthesizer.synthesize(image, np.random.default_rng(seed)) for seed in range(8)]
        assert {(one.kind, one.source, one.mask.shape) for one in drawn} == {("real", defects.files[0].image, shape)}
        assert all(one.mask.any() and 0.7 <= one.opacity <= 1 for one in drawn)
    assert synthesizer.source_files == [defects.files[0].image, defects.files[0].mask]


def test_min_contrast_holds_for_real_defects(tmp_path):
    faint = RealDefects([photograph(tmp_path, ((20, 28), (30, 36)), level=PRODUCT - 6)], SIZE)
    for least, kind in ((0, "real"), (10, "normal")):
        config = AnomalyConfig(types={"real": 1}, min_contrast=least)
        synthesizer = AnomalySynthesizer(config, {}, image_size=SIZE, real=faint)
        assert synthesizer.synthesize(np.full((*SIZE, 3), 90, np.uint8), np.random.default_rng(0)).kind == kind


def test_without_defects_or_masks_the_message_says_what_to_write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = OpenDataset("metal", DatasetConfig(image_root=str(tmp_path)), ("nut",))
    good, bad = Entry("nut/0.png", 0, "good", "nut"), Entry("nut/1.png", 1, "defective", "nut")
    write_index(tmp_path / "data/metal/samples", "nut", ClassIndex((good,), ()))
    with pytest.raises(UserError, match=r'"NG/known/\*": train scratch.*experiments/metal/layout\.yaml'):
        find_real(dataset, "nut")
    write_index(tmp_path / "data/metal/samples", "nut", ClassIndex((good,), (), (bad,)))
    with pytest.raises(UserError, match=r"nut/1\.png of 'nut' \(1 in all\) has none"):
        find_real(dataset, "nut")
