import csv
from pathlib import Path

import numpy as np
import pytest
from alone import denormalise

from realnet.anomalies import product
from realnet.anomalies.items import DetectorTrainDataset
from realnet.anomalies.product import anomalous_only
from realnet.anomalies.synthesis import build_synthesizer
from realnet.config import AnomalyConfig, RealNetConfig, load
from realnet.data.images import read_image, read_mask, resize_image, write_image
from realnet.data.registry import open_dataset
from realnet.errors import UserError

ARGUMENTS = ("synthesize", "--dataset", "tiny", "--class_name", "widget", "--num_samples", "8")


def manifest(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_images_masks_sources_and_manifest_belong_together(tiny, run_script):
    assert "written    8 anomalies on 6 normal images of widget to out" in run_script(*ARGUMENTS, "--output", "out")
    rows = manifest(tiny / "out")
    names = [f"{number:05d}.png" for number in range(8)]
    assert [row["file"] for row in rows] == names
    for folder in ("image", "mask", "source"):
        assert sorted(path.name for path in (tiny / "out" / folder).iterdir()) == names
    for row in rows:
        image, source = (read_image(tiny / "out" / folder / row["file"]) for folder in ("image", "source"))
        mask = read_mask(tiny / "out/mask" / row["file"])
        assert mask.any()
        assert np.array_equal(image[~mask], source[~mask])
        assert not np.array_equal(image, source)
        original = read_image(tiny / "data/tiny/images" / row["source_file"])
        assert np.array_equal(source, resize_image(original, (32, 32)))
        assert (row["class_name"], row["anomaly_type"], row["anomaly_source"]) == ("widget", "self", "")
        assert 0.2 <= float(row["opacity"]) <= 1
        assert {row["perlin_height"], row["perlin_width"]} <= {"1", "2", "4", "8", "16", "32"}


def test_an_export_replaces_what_an_export_left_and_nothing_else(tiny, run_script, monkeypatch):
    (tiny / "out/image").mkdir(parents=True)
    (tiny / "out/image/00000.png").write_bytes(b"mine")
    with pytest.raises(UserError, match="out/image holds images that no export left unfinished"):
        run_script(*ARGUMENTS, "--output", "out")
    assert (tiny / "out/image/00000.png").read_bytes() == b"mine"
    with monkeypatch.context() as patched, pytest.raises(TypeError):
        patched.setattr(product, "_write_manifest", None)
        run_script(*ARGUMENTS, "--output", "new")
    run_script(*ARGUMENTS, "--output", "new")
    assert sorted(path.name for path in (tiny / "new").iterdir()) == ["image", "manifest.csv", "mask", "source"]


def test_the_anomalies_are_those_of_training(tiny, run_script):
    run_script(*ARGUMENTS, "--output", "out", "--seed", "7")
    dataset = open_dataset("tiny")
    config = load(RealNetConfig, tiny / "experiments/tiny/realnet.yaml", ["anomalies.types={self: 1}"])
    synthesizer = build_synthesizer(config.anomalies, dataset, "widget", image_size=config.image_size)
    train = dataset.index("widget").train
    items = DetectorTrainDataset(train, dataset.image_root, image_size=(32, 32), synthesizer=synthesizer, seed=7)
    for row in manifest(tiny / "out"):
        assert row["seed"] == "7"
        item = items[int(row["epoch"]), int(row["index"])]
        image = read_image(tiny / "out/image" / row["file"])
        assert np.array_equal(denormalise(item["image"]).permute(1, 2, 0).numpy(), image)


def test_seeds_fix_everything(tiny, run_script):
    for folder, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        run_script(*ARGUMENTS, "--output", folder, "--seed", seed)
    content = {
        folder: {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*.*")} for folder in "abc"
    }
    assert content["a"] == content["b"]
    assert content["a"].keys() == content["c"].keys()
    assert content["a"] != content["c"]


def test_configured_sources_are_used_in_their_proportion(tiny, run_script):
    for number in range(2):
        write_image(tiny / f"data/tiny/sdas/widget/{number}.jpg", np.full((20, 20, 3), 255 * number, np.uint8))
    types = "anomalies.types={normal: 9, sdas: 5, self: 1}"
    run_script(*ARGUMENTS[:-1], "60", "--set", types, "--output", "out")
    rows = manifest(tiny / "out")
    sdas = [row["anomaly_source"] for row in rows if row["anomaly_type"] == "sdas"]
    assert set(sdas) == {"data/tiny/sdas/widget/0.jpg", "data/tiny/sdas/widget/1.jpg"}
    assert 40 <= len(sdas) < 60
    assert anomalous_only(AnomalyConfig(types={"normal": 1, "self": 2})).types == {"self": 2}


def test_several_classes_get_a_folder_each(tiny, run_script):
    run_script("synthesize", "--dataset", "tiny", "--num_samples", "2", "--output", "out")
    assert {path.parent.name for path in (tiny / "out").rglob("manifest.csv")} == {"weave", "widget"}


def test_a_dry_run_touches_nothing_and_a_finished_product_stays(tiny, run_script):
    before = sorted(tiny.rglob("*"))
    printed = run_script(*ARGUMENTS, "--output", "out", "--dry-run")
    assert "would write 8 anomalies" in printed
    assert "perlin_scale: 6" in printed
    assert sorted(tiny.rglob("*")) == before
    run_script(*ARGUMENTS, "--output", "out")
    with pytest.raises(UserError, match=r"out/manifest\.csv already exist; give another --output"):
        run_script(*ARGUMENTS, "--output", "out")
    with pytest.raises(UserError, match="--num_samples 0: give 1 or more"):
        run_script(*ARGUMENTS[:-1], "0", "--output", "other")


def test_missing_sources_name_their_command(tiny, run_script):
    with pytest.raises(UserError, match=r"python sample\.py --dataset tiny --classes widget"):
        run_script(*ARGUMENTS, "--output", "out", "--set", "anomalies.types={sdas: 1}")
    assert not (tiny / "out").exists()


def test_a_foreground_that_leaves_no_place_is_named(tiny, run_script, monkeypatch):
    monkeypatch.setattr("realnet.anomalies.synthesis.foreground_mask", lambda image, rule: np.zeros((32, 32), bool))
    monkeypatch.setattr(product, "MAX_FAILURES", 10)
    with pytest.raises(UserError, match=r"10 images of widget in a row have no room.*preview"):
        run_script(*ARGUMENTS, "--output", "out")
