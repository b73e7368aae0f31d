import pytest

from realnet.anomalies.sources import find_sdas, find_textures
from realnet.config import DatasetConfig, load, paths
from realnet.data.index import read_index
from realnet.detection.checkpoints import Subject, missing_checkpoint
from realnet.errors import UserError
from realnet.inspection import findings


@pytest.mark.parametrize("root", ["DTD", "DTD/dtd", "DTD/dtd/images", "DTD/images", "DTD/dtd/images/banded"])
def test_textures_are_found_wherever_the_archive_was_unpacked(tmp_path, root):
    picture = tmp_path / "DTD/dtd/images/banded/banded_0002.jpg"
    picture.parent.mkdir(parents=True)
    picture.touch()
    assert find_textures(tmp_path / root) == [picture]


def test_without_textures_the_message_says_where_to_get_them(tmp_path):
    with pytest.raises(UserError, match="unpack the Describable Textures Dataset"):
        find_textures(tmp_path)


def test_commands_in_messages_can_be_pasted_into_a_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = "--dataset 'my parts'"
    with pytest.raises(UserError, match=rf"{wanted} --classes 'a b'"):
        find_sdas("my parts", "a b")
    with pytest.raises(UserError, match=rf"{wanted} --class_name 'a b'"):
        read_index(paths.protocols("my parts"), "a b")
    assert f"{wanted} --class_name 'a b'" in missing_checkpoint("my parts", Subject("a b"))
    assert wanted in findings.report([findings.Finding(findings.OUTDATED, "x")], "my parts")


def test_a_byte_order_mark_before_yaml_is_no_part_of_it(tmp_path):
    path = tmp_path / "dataset.yaml"
    path.write_text("\ufeffimage_root: photos\n", encoding="utf-8")
    assert load(DatasetConfig, path).image_root == "photos"


def test_images_that_a_manifest_lists_and_the_folder_lacks_are_told(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    folder = paths.sdas("parts", "nut")
    folder.mkdir(parents=True)
    for name in ("settings.yaml", "00000.png", "00001.png"):
        (folder / name).touch()
    manifest = folder / "manifest.csv"
    manifest.write_text("file\n00000.png\n00001.png\n00002.png\n")
    assert [path.name for path in find_sdas("parts", "nut")] == ["00000.png", "00001.png"]
    assert "1 images that data/parts/sdas/nut/manifest.csv lists are absent, such as 00002.png" in caplog.text
    for content in (b"name\n00000.png\n", b"file\n\xff.png\n"):
        manifest.write_bytes(content)
        with pytest.raises(UserError, match=r"manifest\.csv"):
            find_sdas("parts", "nut")
