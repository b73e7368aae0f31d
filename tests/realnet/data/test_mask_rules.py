import cv2
import numpy as np
import pytest
from PIL import Image as PILImage

from realnet.config import DatasetConfig, MaskRule, load_dataset
from realnet.data.images import read_mask, write_image
from realnet.data.mask_rules import find_mask_rule
from realnet.data.registry import OpenDataset, open_dataset
from realnet.errors import UserError
from realnet.inspection import findings as kinds
from realnet.inspection.check import inspect_class
from realnet.preparation.preparation import add_dataset

TRUTH = np.zeros((6, 64, 64), bool)
for number, mask in enumerate(TRUTH):
    mask[10 : 30 + number, 20 : 40 + 2 * number] = True
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def grey(mask):
    return mask.astype(np.uint8) * 255


def painted(mask, colour, background):
    return np.where(mask[..., None], np.array(colour, np.uint8), np.array(background, np.uint8))


def smooth(mask):
    return cv2.GaussianBlur(grey(mask), (5, 5), 1)


def save(folder, name, pixels):
    folder.mkdir(parents=True, exist_ok=True)
    PILImage.fromarray(pixels).save(folder / name)
    return folder / name


FORMS = {
    "black and white": ("png", grey, MaskRule()),
    "ones": ("png", lambda mask: mask.astype(np.uint8), MaskRule()),
    "numbers of kinds": (
        "png",
        lambda mask: mask.astype(np.uint8) * (1 + np.arange(64, dtype=np.uint8) // 32),
        MaskRule(),
    ),
    "JPEG": ("jpg", grey, MaskRule(above=127)),
    "anti-aliased": ("png", smooth, MaskRule(above=127)),
    "alpha": (
        "png",
        lambda mask: np.dstack([painted(mask, WHITE, WHITE), grey(mask)]),
        MaskRule(channel="alpha", above=127),
    ),
    "black, with alpha": (
        "png",
        lambda mask: np.dstack([painted(mask, BLACK, BLACK), grey(mask)]),
        MaskRule(channel="alpha", above=127),
    ),
    "inverted": ("png", lambda mask: grey(~mask), MaskRule(background=WHITE)),
    "inverted JPEG": ("jpg", lambda mask: grey(~mask), MaskRule(background=WHITE, above=127)),
    "red on green": ("png", lambda mask: painted(mask, (200, 0, 0), (0, 128, 0)), MaskRule(background=(0, 128, 0))),
    "red on black": ("png", lambda mask: painted(mask, (200, 0, 0), BLACK), MaskRule()),
    "opaque": ("png", lambda mask: np.dstack([painted(mask, WHITE, BLACK), grey(mask | ~mask)]), MaskRule()),
}


@pytest.mark.parametrize(("suffix", "drawn", "rule"), FORMS.values(), ids=FORMS)
def test_the_rule_of_a_datasets_masks_is_found(tmp_path, suffix, drawn, rule):
    files = [save(tmp_path, f"{number}.{suffix}", drawn(mask)) for number, mask in enumerate(TRUTH)]
    assert find_mask_rule(files) == rule
    for path, mask in zip(files, TRUTH, strict=True):
        found = read_mask(path, rule)
        assert np.count_nonzero(found != mask) <= 4  # corners of what is smooth
        assert cv2.connectedComponents(found.astype(np.uint8))[0] == 2  # one region


def test_one_large_defect_is_no_inverted_mask(tmp_path):
    large = np.ones((64, 64), bool)
    large[:4] = False
    files = [save(tmp_path, f"{number}.png", grey(mask)) for number, mask in enumerate([*TRUTH[:3], large])]
    assert find_mask_rule(files) == MaskRule() == find_mask_rule([]) == find_mask_rule([tmp_path / "absent.png"])


def test_deep_masks_follow_the_same_rule(tmp_path):
    deep = np.full((8, 8), 65535, np.uint16)
    deep[2:4, 2:4] = 0
    cv2.imwrite(str(tmp_path / "m.png"), deep)
    assert np.argwhere(read_mask(tmp_path / "m.png", MaskRule(background=WHITE, above=127))).tolist() == [
        [2, 2],
        [2, 3],
        [3, 2],
        [3, 3],
    ]


def test_a_mask_without_the_asked_transparency_is_named(tmp_path):
    path = save(tmp_path, "m.png", grey(TRUTH[0]))
    with pytest.raises(UserError, match=r"m\.png has no transparency, but dataset\.yaml says masks\.channel: alpha"):
        read_mask(path, MaskRule(channel="alpha"))


def own(folder, drawn, suffix="png"):
    generator = np.random.default_rng(0)
    for number, mask in enumerate(TRUTH):
        for part in ("good", "NG"):
            write_image(folder / part / f"{number}.png", generator.integers(0, 255, (64, 64, 3)).astype(np.uint8))
        save(folder / "masks/NG", f"{number}.{suffix}", drawn(mask))


def test_add_shows_and_stores_the_rule_and_check_is_content(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own(tmp_path / "parts", lambda mask: grey(~mask))
    add_dataset("mine", tmp_path / "parts")
    assert "masks      pixels that differ from white (inverted) are defects" in capsys.readouterr().out
    assert load_dataset("mine").masks == MaskRule(background=WHITE)


@pytest.mark.parametrize("form", ["black and white", "JPEG", "alpha", "inverted"])
def test_a_test_image_is_good_if_its_mask_shows_no_defect_by_the_rule_of_all(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    suffix, drawn, rule = FORMS[form]
    parts, rng = tmp_path / "parts", np.random.default_rng(1)
    own(parts, drawn, suffix)
    for part, folder in (("good", "train"), ("NG", "test"), ("masks/NG", "gt")):
        (parts / part).rename(parts / folder)
    (parts / "masks").rmdir()
    write_image(parts / "test/9.png", rng.integers(0, 255, (64, 64, 3)).astype(np.uint8))
    blank = drawn(np.zeros((64, 64), bool))
    save(parts / "gt", f"9.{suffix}", cv2.absdiff(blank, rng.integers(0, 4, blank.shape).astype(np.uint8)))
    add_dataset("mine", parts)
    assert load_dataset("mine").masks == rule.model_copy(update={"above": 127})
    for index in (open_dataset("mine").index("parts"), open_dataset("mine").reindex(["parts"])["parts"]):
        assert [entry.filename for entry in index.test if not entry.label] == ["parts/test/9.png"]


@pytest.mark.parametrize(
    ("drawn", "suffix", "kind"),
    [
        (lambda mask: grey(~mask), "png", kinds.LARGE_MASK),
        (grey, "jpg", kinds.JPEG_MASK),
        (smooth, "png", kinds.GREY_MASK),
    ],
)
def test_check_warns_of_masks_that_the_rule_misreads(tmp_path, monkeypatch, drawn, suffix, kind):
    monkeypatch.chdir(tmp_path)
    own(tmp_path / "parts", drawn, suffix)

    def found(rule):
        config = DatasetConfig(image_root=str(tmp_path), masks=rule)
        return {
            each.kind: each.where
            for each in inspect_class(OpenDataset("mine", config, ("parts",)), "parts", decode=True)
        }

    assert "parts: 6 of 6, such as" in found(MaskRule())[kind]
    fitting = find_mask_rule(sorted((tmp_path / "parts/masks/NG").iterdir()))
    assert found(fitting) == {}
