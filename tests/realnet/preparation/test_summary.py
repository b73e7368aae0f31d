import numpy as np

from realnet.data.images import write_image
from realnet.data.index import ClassIndex, build_index
from realnet.data.layout_file import Layout
from realnet.preparation.summary import summarise_class, summary_table


def write(root, *names, shape=(8, 10)):
    for name in names:
        write_image(root / name, np.zeros((*shape, 3), np.uint8))


def indexes(root) -> dict[str, ClassIndex]:
    write(root, "nut/train/good/0.png", "nut/train/good/1.png", "nut/test/good/0.png", "nut/test/bent/0.png")
    write(root, "nut/test/cut/0.png", "nut/test/cut/1.png", "nut/ground_truth/cut/1.png", shape=(6, 4))
    write(root, "01/0.png")
    (root / "01/1.png").write_bytes(b"broken")
    return {name: build_index(root, name) for name in ("nut", "01")}


def test_numbers_of_a_class(tmp_path):
    summary = summarise_class("nut", indexes(tmp_path)["nut"], tmp_path)
    assert (summary.train, summary.good, summary.masks) == (2, 1, 1)
    assert summary.defects == {"bent": 1, "cut": 2}
    assert summary.sizes == {(8, 10): 4, (6, 4): 2}


def test_the_table(tmp_path):
    lines = [line.split("  ") for line in summary_table(indexes(tmp_path), tmp_path).splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells[1:] == [
        ["nut", "2", "1", "3 (bent 1, cut 2)", "1", "6x4, 8x10"],
        ["01", "2", "0", "0", "0", "8x10, 1 unreadable"],
        ["all", "4", "1", "all kinds 3", "1", "6x4, 8x10, 1 unreadable"],
    ]


def test_many_sizes_are_shortened(tmp_path):
    for side in range(3, 8):
        write(tmp_path, f"nut/{side}.png", shape=(side, side))
    table = summary_table({"nut": build_index(tmp_path, "nut")}, tmp_path)
    assert table.splitlines()[-1].endswith("3x3 … 7x7 (5 sizes)")


def test_defects_to_train_on_are_counted_apart(tmp_path):
    layout = Layout({"nut/test/cut/1.png": "train cut"})
    write(tmp_path, "nut/train/0.png", "nut/test/cut/0.png", "nut/test/cut/1.png", "nut/ground_truth/cut/1.png")
    cells = summary_table({"nut": build_index(tmp_path, "nut", layout)}, tmp_path).splitlines()[-1].split("  ")
    assert [cell.strip() for cell in cells if cell.strip()][:5] == ["nut", "1 + 1 defects", "0", "cut 1", "0"]
