import cv2
import numpy as np
import pytest

from realnet.config import MaskRule
from realnet.data.images import read_image, write_image
from realnet.inspection.repeats import Marked, find_repeats

SIZE = (96, 128)


def product(seed, *, aligned):
    """A photograph: a texture of its own or, if the camera sees each part alike, one texture with a little noise."""
    rng = np.random.default_rng(0 if aligned else seed)
    grey = cv2.GaussianBlur(rng.normal(0, 60, SIZE).astype(np.float32), (0, 0), 4) * 5 + 120
    grey += np.random.default_rng(seed).normal(0, 3, SIZE) + np.random.default_rng(seed).normal(0, 2)
    return grey[..., None].repeat(3, axis=2).clip(0, 255).astype(np.uint8)


def with_defect(image, row, column):
    image = image.copy()
    cv2.line(image, (column, row), (column + 14, row + 8), (10, 10, 10), 2)
    return image


@pytest.fixture(params=[False, True], ids=["textures", "aligned parts"])
def photographs(tmp_path, request):
    """Normal images, and a photograph of a defect with its mask."""
    normal = [tmp_path / f"{number}.png" for number in range(12)]
    for number, path in enumerate(normal):
        write_image(path, product(number, aligned=request.param))
    clean = product(90, aligned=request.param)
    write_image(tmp_path / "real.png", with_defect(clean, 40, 50))
    write_image(tmp_path / "mask.png", (with_defect(clean, 40, 50) != clean).any(axis=2))
    others = [tmp_path / f"other{number}.png" for number in range(6)]
    for number, path in enumerate(others):
        image = product(60 + number, aligned=request.param)
        write_image(path, with_defect(image, 20 + 9 * number, 30 + 10 * number) if number < 5 else image)
    return normal, Marked(tmp_path / "real.png", tmp_path / "mask.png"), others


CHANGES = {
    "itself": lambda image: image,
    "smaller": lambda image: cv2.resize(image, (90, 68), interpolation=cv2.INTER_AREA),
    "brighter": lambda image: cv2.convertScaleAbs(image, alpha=1.1, beta=12),
    "turned": lambda image: np.ascontiguousarray(np.rot90(image)),
    "mirrored": lambda image: np.ascontiguousarray(image[:, ::-1]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_photograph_of_a_defect_is_known_again_and_others_are_not(photographs, change):
    normal, real, others = photographs
    repeated = real.image.with_name("repeated.jpg")
    write_image(repeated, CHANGES[change](read_image(real.image)))
    found = find_repeats([real], [*others, repeated], normal, rule=MaskRule())
    assert found == [(repeated, real.image)]


def test_another_photograph_with_the_same_defect_at_its_place_is_no_repeat(photographs, request):
    normal, real, _ = photographs
    another = real.image.with_name("another.png")
    aligned = "aligned" in request.node.callspec.id
    write_image(another, with_defect(product(77, aligned=aligned), 40, 50))
    assert find_repeats([real], [another], normal, rule=MaskRule()) == []


def test_the_photograph_with_the_defect_repaired_is_no_repeat(photographs, request):
    normal, real, _ = photographs
    repaired = real.image.with_name("repaired.png")
    write_image(repaired, product(90, aligned="aligned" in request.node.callspec.id))
    assert find_repeats([real], [repaired], normal, rule=MaskRule()) == []


def test_the_same_part_without_the_defect_is_no_repeat(photographs):
    normal, real, _ = photographs
    assert find_repeats([real], normal, normal, rule=MaskRule()) == []


def test_files_that_cannot_be_read_are_left_to_the_other_checks(photographs):
    normal, real, others = photographs
    real.mask.write_bytes(b"no mask")
    assert find_repeats([real], [*others, real.image], normal, rule=MaskRule()) == []


def test_normal_images_that_occur_twice_hide_no_repeat(photographs):
    normal, real, others = photographs
    assert find_repeats([real], [*others, real.image], [*normal, *normal], rule=MaskRule()) == [
        (real.image, real.image)
    ]


def in_another_light(image):
    """Displaced by 2 pixels, brighter towards one side, and of another exposure."""
    moved = np.roll(image, (2, -2), axis=(0, 1)).astype(np.float32) / 255
    light = np.linspace(0.7, 1.2, moved.shape[1])[None, :, None]
    return (255 * (moved * light).clip(0, 1) ** 0.7).astype(np.uint8)


@pytest.mark.parametrize("photographs", [False], indirect=True, ids=["textures"])
def test_the_part_photographed_again_is_known_also_if_normal_parts_were_photographed_several_times(photographs):
    normal, real, others = photographs
    again = real.image.with_name("again.png")
    write_image(again, in_another_light(read_image(real.image)))
    for path in list(normal):
        normal.append(path.with_name(f"again_{path.name}"))
        write_image(normal[-1], in_another_light(read_image(path)))
    assert find_repeats([real], [*others, again], normal, rule=MaskRule()) == [(again, real.image)]


@pytest.mark.filterwarnings("error")  # NumPy warns where a correlation is undefined
def test_a_flat_image_repeats_nothing_and_nothing_repeats_a_flat_photograph(photographs):
    normal, real, others = photographs
    flat = real.image.with_name("flat.png")
    write_image(flat, np.zeros((*SIZE, 3), np.uint8))
    assert find_repeats([real], [*others, flat], normal, rule=MaskRule()) == []
    assert find_repeats([Marked(flat, real.mask)], others, normal, rule=MaskRule()) == []
