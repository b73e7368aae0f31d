import cv2
import numpy as np
import pytest
import torch
from alone import ALONE

from realnet.config import RuntimeConfig
from realnet.data.images import normalise, read_image, resize_image, write_image
from realnet.data.index import Entry
from realnet.drawing.thumbnails import thumbnail
from realnet.errors import UserError
from realnet.evaluation.files import TestFiles
from realnet.evaluation.split import TestSplit, interleave

SIZE = (32, 48)


@pytest.fixture
def entries(tmp_path):
    generator = np.random.default_rng(0)
    for number in range(3):
        write_image(tmp_path / f"nut/{number}.png", generator.integers(0, 256, (40, 500, 3)).astype(np.uint8))
    mask = np.zeros((40, 500), bool)
    mask[10:20, 100:300] = True
    write_image(tmp_path / "masks/1.png", mask)
    return [
        Entry("nut/0.png", 0, "good", "nut"),
        Entry("nut/1.png", 1, "defective", "nut", "masks/1.png"),
        Entry("nut/2.png", 1, "defective", "nut"),
    ]


def split_of(entries, root, **changes):
    files = TestFiles(entries, root, SIZE, **changes)
    return TestSplit(files, runtime=RuntimeConfig(num_workers=0), world=ALONE)


def test_images_and_their_truth(entries, tmp_path):
    split = split_of(entries, tmp_path)
    images = {part.start: batch for part, batch in split.batches(2)}
    assert images[0].shape == (2, 3, *SIZE) and images[2].shape == (1, 3, *SIZE)
    expected = normalise(resize_image(read_image(tmp_path / "nut/2.png"), SIZE))
    assert np.array_equal(images[2][0], expected)
    truth = split.truth()
    assert truth.has_mask.tolist() == [True, True, False]
    assert not truth.masks[0].any() and not truth.masks[2].any()
    assert truth.masks[1].mean() == pytest.approx(10 * 200 / (40 * 500), abs=0.02)


def test_every_pass_gives_the_same_and_the_first_alone_decodes(entries, tmp_path, monkeypatch):
    split, decodes, decode = split_of(entries, tmp_path, with_pictures=True), [], cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *given: decodes.append(1) or decode(*given))
    first = [batch for _, batch in split.batches(3)]
    assert len(decodes) == 3 + 1  # the images, and the one mask
    for batch_size in (3, 1):
        again = np.concatenate([batch for _, batch in split.batches(batch_size)])
        assert np.array_equal(again, np.concatenate(first))
    split.truth(), split.pictures()
    assert len(decodes) == 4


def test_a_pass_that_was_cut_off_is_read_again(entries, tmp_path):
    split = split_of(entries, tmp_path)
    next(split.batches(1))
    assert len(list(split.batches(1))) == 3
    assert split.truth().has_mask.tolist() == [True, True, False]


def test_pictures_keep_what_people_see(entries, tmp_path):
    split = split_of(entries, tmp_path, with_pictures=True)
    list(split.batches(2))
    pictures = split.pictures()
    image = read_image(tmp_path / "nut/1.png")
    assert np.array_equal(pictures.panels[1], resize_image(image, (171, 256)))
    assert np.array_equal(pictures.thumbnail(1), thumbnail(image)) and pictures.thumbnail(1).shape == (20, 256, 3)


def test_a_mask_of_another_size_is_refused(entries, tmp_path):
    write_image(tmp_path / "masks/1.png", np.ones((50, 40), bool))
    with pytest.raises(UserError, match=r"masks/1\.png is 50x40 pixels, its image nut/1\.png is 40x500"):
        list(split_of(entries, tmp_path).batches(3))


def test_an_empty_split(tmp_path):
    split = split_of([], tmp_path)
    assert not list(split.batches(2)) and split.truth().masks.shape == (0, *SIZE)


def test_shares_are_interleaved():
    shares = [np.array([0, 3, 6]), np.array([1, 4]), np.array([2, 5])]
    assert interleave(shares).tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_an_image_that_changes_between_two_passes_is_read_again(entries, tmp_path):
    split = split_of(entries, tmp_path)
    list(split.batches(3))
    split.truth()
    white = np.full((40, 500, 3), 255, np.uint8)
    write_image(tmp_path / "nut/0.png", white)
    _, images = next(split.batches(3))
    assert np.array_equal(images[0], normalise(resize_image(white, SIZE)))
    (tmp_path / "nut/2.png").unlink()
    with pytest.raises(UserError, match=r"nut/2\.png"):
        list(split.batches(3))


@pytest.mark.parametrize("where", ["full", "absent"])
def test_without_room_for_temporary_files_images_stay_in_memory(entries, tmp_path, monkeypatch, where):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    if where == "full":
        monkeypatch.setattr("os.posix_fallocate", refuse)
    else:
        monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    split = split_of(entries, tmp_path, with_pictures=True)
    first = torch.cat([batch for _, batch in split.batches(2)])
    assert torch.equal(first, torch.cat([batch for _, batch in split.batches(3)]))
