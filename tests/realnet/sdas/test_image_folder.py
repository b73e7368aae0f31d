from pathlib import Path

import pytest
import torch

from realnet.config import SampleConfig
from realnet.errors import UserError
from realnet.sdas.image_folder import Draw, draws, missing, prepare, write_manifest


def wanted(number: int, **settings) -> list:
    return draws("weave", SampleConfig(num_samples=number, **settings))


def sample(folder: Path, number: int, *, resume: bool = True, content: str = "ours", **settings) -> None:
    """Leave what a run leaves, without its networks."""
    prepare(folder, f"seed {settings}", wanted(number, **settings), resume=resume)
    for draw in missing(folder, wanted(number, **settings)):
        (folder / draw.file).write_text(content)
    write_manifest(folder, wanted(number, **settings), "a model", None)


def images(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.suffix in {".jpg", ".png"}}


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("name", ["00001.jpg", "2024-photo.jpg", "part.png"])
def test_images_of_another_maker_are_neither_removed_nor_adopted(tmp_path, name, resume):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"holds 1 images that sample.py did not make, such as {name}"):
        sample(tmp_path, 3, resume=resume)
    assert {path.name for path in tmp_path.iterdir()} == {name}


def test_starting_anew_removes_all_that_was_sampled_and_nothing_else(tmp_path):
    sample(tmp_path, 3, content="old")
    sample(tmp_path, 2)  # fewer: the third image stays, outside the manifest
    (tmp_path / "2024.jpg").write_text("mine")
    (tmp_path / "00007.png").write_text("mine")
    sample(tmp_path, 3, resume=False, content="new", seed=5)
    names = {"00000.jpg": "new", "00001.jpg": "new", "00002.jpg": "new", "2024.jpg": "mine", "00007.png": "mine"}
    assert images(tmp_path) == names
    with pytest.raises(UserError, match=r"1 images that sample\.py did not make, such as 00007\.png"):
        sample(tmp_path, 8, resume=False, format="png")
    assert images(tmp_path) == names


def test_a_folder_is_not_called_complete_while_its_images_are_removed(tmp_path, monkeypatch):
    sample(tmp_path, 3)
    unlink = Path.unlink

    def killed(path, missing_ok=False):
        unlink(path, missing_ok)
        if path.suffix == ".jpg":
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        sample(tmp_path, 3, resume=False)
    assert len(images(tmp_path)) == 2 and not (tmp_path / "manifest.csv").exists()


def test_a_folder_of_version_1_0_which_kept_no_list_goes_on_and_starts_anew(tmp_path):
    sample(tmp_path, 3)
    (tmp_path / ".images").unlink()
    sample(tmp_path, 4)
    assert len(images(tmp_path)) == 4
    (tmp_path / ".images").unlink()
    sample(tmp_path, 2, resume=False, content="new")
    assert images(tmp_path) == {"00000.jpg": "new", "00001.jpg": "new"}


def test_a_list_of_images_names_nothing_outside(tmp_path):
    folder = tmp_path / "weave"
    sample(folder, 2)
    (tmp_path / "mine.jpg").write_text("mine")
    with (folder / ".images").open("a") as file:
        file.write("../mine.jpg\n")
    sample(folder, 2, resume=False)
    assert (tmp_path / "mine.jpg").exists()


def test_noise_counts_every_bit_of_a_seed():
    """In version 1.0 images whose seeds agree in 32 bits share all their noise: among 150,000 three pairs do."""
    seeds = [draw.seed for draw in wanted(50)]
    assert len(set(seeds)) == 50 and max(seeds) > 2**120
    for short in (True, False):
        a, b = (Draw("", "", seed, 0.1, has_short_seed=short).noise((3, 8, 8)) for seed in (5, 2**32 + 5))
        assert torch.equal(a(), b()) == torch.equal(a(), b()) == short
    noise = torch.stack([draw.noise((3, 32, 32))() for draw in wanted(20)])
    assert noise.dtype == torch.float32 and abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    again, once = wanted(1)[0].noise((2, 2)), wanted(1)[0].noise((2, 2))
    first = again()
    assert torch.equal(first, once()) and not torch.equal(first, again())
