"""Folders as people have them, a table line each; drawn in small pictures."""

import unicodedata

import cv2
import numpy as np

GOOD = [f"{number:03d}" for number in range(10)]
HELD = [f"{number:03d}" for number in range(12, 15)]
BAD = [f"{number:03d}" for number in range(20, 25)]


def draw(root, what, folder, names, pattern="{}.png"):
    for number, name in enumerate(names):
        rng = np.random.default_rng([number, *folder.encode(), *what.encode()])
        pixels = rng.integers(20, 230, (16, 16, 3)).astype(np.uint8)
        if what in {"mask", "black", "white"}:
            pixels[:] = 255 if what == "white" else 0
        if what == "mask":
            pixels[4 : 8 + number % 4, 5:9] = 255
        path = root / folder / pattern.format(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        coded = ".jpg" if path.suffix.lower() == ".jpg" else ".png"
        path.write_bytes(cv2.imencode(coded, pixels)[1].tobytes())


# each line: (what is drawn, folder, names, pattern); only what is called "good" may be trained on, and all that is
# "held" or "bad" is tested on
CLASSIC = [("good", "train/good", GOOD), ("held", "test/good", GOOD[:3]), ("bad", "test/bent", BAD)]
FLAT = [("good", "train", GOOD), ("held", "test", HELD), ("bad", "test", BAD)]
FOLDERS = {
    "mvtec": [*CLASSIC, ("mask", "ground_truth/bent", BAD, "{}_mask.png")],
    "upper case": [
        ("good", "Train/Good", GOOD),
        ("held", "Test/Good", GOOD[:3]),
        ("bad", "Test/Bent", BAD),
        ("mask", "Ground_Truth/Bent", BAD, "{}_MASK.PNG"),
    ],
    "training, testing, val": [
        ("good", "training/good", GOOD),
        ("held", "val/good", GOOD[:3]),
        ("bad", "testing/bent", BAD),
        ("mask", "GroundTruth/bent", BAD),
    ],
    "masks beside the images": [*CLASSIC, ("mask", "test/bent", BAD, "{}_mask.png")],
    "black masks beside the good images": [
        *CLASSIC,
        ("mask", "test/bent", BAD, "{}_gt.png"),
        ("black", "train/good", GOOD, "{}_gt.png"),
    ],
    "masks inside the kind": [*CLASSIC, ("mask", "test/bent/masks", BAD)],
    "MASK beside train": [*CLASSIC, ("mask", "MASK/bent", BAD), ("black", "MASK/good", GOOD)],
    "gt": [*CLASSIC, ("mask", "gt/bent", BAD)],
    "flat ground truth": [*CLASSIC, ("mask", "ground_truth", BAD)],
    "masks in a folder of no known name": [*CLASSIC, ("mask", "zxq", BAD)],
    "masks of no known name among the good": [
        ("good", "good", GOOD),
        ("bad", "NG", BAD),
        ("mask", "zxq", BAD),
    ],
    "black masks for normal images": [
        *CLASSIC,
        ("mask", "ground_truth/bent", BAD),
        ("black", "ground_truth/good", GOOD),
    ],
    "train_good, test_good": [
        ("good", "train_good", GOOD),
        ("held", "test_good", GOOD[:3]),
        ("bad", "test/bent", BAD),
        ("mask", "test_masks/bent", BAD),
    ],
    "one level deeper": [
        ("good", "train/good/lot1", GOOD[:5]),
        ("good", "train/good/lot2", GOOD[5:]),
        ("bad", "test/bent/lot1", BAD),
        ("mask", "ground_truth/bent/lot1", BAD, "{}_mask.png"),
    ],
    "OK and NG": [("good", "OK", GOOD), ("bad", "NG", BAD), ("mask", "masks/NG", BAD)],
    "pass and fail": [("good", "pass", GOOD), ("bad", "fail", BAD), ("mask", "fail_mask", BAD)],
    "normal and abnormal": [("good", "normal", GOOD), ("bad", "abnormal", BAD), ("mask", "label", BAD)],
    "German": [("good", "Gutteile", GOOD), ("bad", "Kratzer", BAD), ("mask", "Masken/Kratzer", BAD)],
    "French": [
        ("good", "bon", GOOD),
        ("bad", unicodedata.normalize("NFD", "défaut"), BAD),
        ("mask", "masque/défaut", BAD),
    ],
    "Chinese": [("good", "良品", GOOD), ("bad", "划痕", BAD), ("mask", "掩码/划痕", BAD)],
    "Korean": [
        ("good", unicodedata.normalize("NFD", "양품"), GOOD),
        ("bad", "불량", BAD),
        ("mask", "마스크/불량", BAD),
    ],
    "Russian": [("good", "хорошие", GOOD), ("bad", "брак", BAD), ("mask", "маски/брак", BAD)],
    "VisA as published": [
        ("good", "Data/Images/Normal", GOOD, "{}.JPG"),
        ("bad", "Data/Images/Anomaly", BAD, "{}.JPG"),
        ("mask", "Data/Masks/Anomaly", BAD),
    ],
    "masks as PNG beside JPEGs": [
        ("good", "good", GOOD, "{}.jpg"),
        ("bad", "crack", BAD, "{}.jpg"),
        ("mask", "crack", BAD),
    ],
    "flat with masks": [("good", "images", GOOD), ("bad", "images", BAD), ("mask", "masks", BAD)],
    "endings that say nothing": [
        ("good", "train/good", GOOD, "{}.jpe"),
        ("bad", "test/bent", BAD, "{}"),
        ("mask", "ground_truth/bent", BAD),
    ],
    "heatmaps among the images": [("good", "good", GOOD), ("bad", "bent", BAD), ("unused", "good/overlays", GOOD)],
    "overlays beside the images": [*CLASSIC, ("unused", "test/bent", BAD, "{}_overlay.png")],
    "images kept twice or not sorted": [
        *CLASSIC,
        ("unused", "backup/train/good", BAD),
        ("unused", "test/unlabelled", BAD),
        ("unused", "train/good - Copy", BAD),
    ],
    "loose pictures beside the folders": [*CLASSIC, ("unused", "", ["overview"]), ("unused", "train", ["sheet"])],
    "backup beside the good": [("good", "good", GOOD), ("bad", "NG", BAD), ("unused", "backup/train/good", HELD)],
    "flat, with masks": [*FLAT, ("mask", "masks", BAD)],
    "flat, with masks beside the images": [*FLAT, ("mask", "test", BAD, "{}_mask.png")],
    "flat, with black masks of good images": [*FLAT, ("mask", "Masks", BAD), ("black", "Masks", HELD)],
    "flat, with the same names in both halves": [
        ("good", "train", GOOD),
        ("held", "test", GOOD[:3]),
        ("bad", "test", BAD),
        ("mask", "masks/test", BAD),
        ("black", "masks/train", GOOD),
        ("black", "masks/test", GOOD[:3]),
    ],
    "flat, with masks in a folder of no known name": [*FLAT, ("mask", "zxq", BAD)],
    "images and masks in each half": [
        ("good", "train/images", GOOD),
        ("black", "train/masks", GOOD),
        ("held", "val/images", HELD),
        ("bad", "val/images", BAD),
        ("mask", "val/masks", BAD),
    ],
    "KolektorSDD2": [
        *FLAT,
        ("black", "train", GOOD, "{}_GT.png"),
        ("black", "test", HELD, "{}_GT.png"),
        ("mask", "test", BAD, "{}_GT.png"),
    ],
    "all images flat, each with a mask": [
        ("good", "images", GOOD),
        ("bad", "images", BAD),
        ("black", "masks", GOOD),
        ("mask", "masks", BAD, "mask_{}.png"),
    ],
    "flat in Chinese": [
        ("good", "训练", GOOD),
        ("held", "测试", HELD),
        ("bad", "测试", BAD),
        ("mask", "掩码", BAD),
    ],
    "flat in German": [
        ("good", "Training", GOOD),
        ("held", "Prüfung", HELD),
        ("bad", "Prüfung", BAD),
        ("mask", "Masken", BAD),
    ],
    "Spanish": [
        ("good", "entrenamiento/buenos", GOOD),
        ("held", "prueba/buenos", HELD),
        ("bad", "prueba/rayones", BAD),
        ("mask", unicodedata.normalize("NFD", "máscaras/rayones"), BAD),
    ],
    "defects below train, and no test": [("good", "train/good", GOOD), ("bad", "train/crack", BAD)],
    "defects beside train": [("good", "train", GOOD), ("bad", "defects/crack", BAD)],
    "a folder of defects among the good": [("good", "", GOOD), ("bad", "crack", BAD)],
    "good_train, bad_test": [("good", "good_train", GOOD), ("held", "good_test", HELD), ("bad", "bad_test", BAD)],
    "ok_front, def_front": [("good", "train", GOOD), ("held", "test/ok_front", HELD), ("bad", "test/def_front", BAD)],
    "three levels below": [
        ("good", "good/lot1/day1", GOOD[:5]),
        ("good", "good/lot1/day2", GOOD[5:]),
        ("bad", "NG/lot1/day1", BAD),
    ],
    "Hindi": [("good", "अच्छा", GOOD), ("bad", "खराब", BAD)],
}


REFUSED = {
    "masks among the good images": ([*CLASSIC, ("mask", "train/good", BAD, "m{}.png")], "look like masks"),
    "black masks among the good": ([*CLASSIC, ("black", "train/good", BAD, "x{}.png")], "look like masks"),
    "a kind without images": ([*CLASSIC, ("mask", "ground_truth/cut", BAD)], "masks whose image is unknown"),
    "good images with a defect's mask": ([*CLASSIC, ("mask", "gt/good", GOOD)], "good images whose mask shows"),
    "defects by name in a flat folder": ([("good", "", GOOD), ("bad", "", BAD, "ng_{}.png")], "names leave open"),
    "kinds beside each other in train": (
        [("bad", "train/zxq", BAD), ("good", "train/zxw", GOOD), ("bad", "test/zxq", BAD)],
        "names leave open",
    ),
    "kinds as classes": ([("good", "part", GOOD), ("bad", "crack", BAD)], "classes named for defects"),
    "numbers that may be classes or good and bad": (
        [("good", "0", GOOD), ("bad", "1", BAD)],
        "may be classes, or good and bad products: 2\n  0\n  1\n",
    ),
    "words that may mean good or bad": (
        [("good", "negative", GOOD), ("bad", "positive", BAD)],
        "may be classes, or good and bad products",
    ),
    "numbers in training and in test": (
        [(what, f"{half}/{n}", GOOD) for half in ("train", "test") for n, what in enumerate(("good", "bad"))],
        r"photos/test/0/000\.png \(unclear: its folder 0 does not say whether it is good\)",
    ),
    "a mask that fits several images of a flat folder": (
        [("good", "0", GOOD), ("bad", "1", BAD), ("bad", "0", BAD), ("mask", "masks", BAD)],
        "several for one image",
    ),
    "several masks of one image": (
        [*CLASSIC, ("mask", "gt/bent", BAD, "{}_mask1.png"), ("mask", "gt/bent", BAD, "{}_mask2.png")],
        "several for one image",
    ),
    "flat halves without masks": (FLAT, r'nor a mask says.*\n  "test/\*": ROLE'),
    "COCO": (
        [("good", "train2017", GOOD), ("held", "val2017", HELD), ("bad", "val2017", BAD)],
        r'\n  "val2017/\*": ROLE',
    ),
    "COCO below images": (
        [("good", "images/train2017", GOOD), ("bad", "images/val2017", BAD)],
        r'\n  "images/val2017/\*": ROLE',
    ),
    "Roboflow": (
        [("good", "train/images", GOOD), ("bad", "valid/images", BAD), ("bad", "test/images", BAD)],
        r'\n  "test/images/\*": ROLE\n  "valid/images/\*": ROLE',
    ),
    "defects below train, beside a test": (
        [*CLASSIC, ("bad", "train/crack", BAD)],
        "a defect among the training images",
    ),
    "bad ones in both halves": ([*CLASSIC, ("bad", "train/bad", BAD), ("bad", "test/bad", BAD)], "a defect among"),
    "defects outside the test": (
        [("good", "good", GOOD), ("bad", "NG", BAD), ("bad", "test/NG", BAD)],
        "names leave open",
    ),
    "a folder of no known name beside train": ([("good", "train/good", GOOD), ("bad", "zxq", BAD)], "names leave open"),
    "a folder of no known name among the good": ([("good", "", GOOD), ("bad", "zxq", BAD)], "names leave open"),
    "numbers beside good": ([("good", "good", GOOD), ("bad", "1", BAD), ("bad", "2", BAD)], "names leave open"),
    "loose images in the test": ([*CLASSIC, ("bad", "test", HELD)], "names leave open"),
    "a kind that speaks of good": ([*CLASSIC, ("held", "test/ok_zxq", HELD)], "names leave open"),
    "a kind that denies a defect": (
        [("good", "good", GOOD), ("held", "no_scratch", HELD), ("bad", "bent", BAD)],
        "names leave open",
    ),
    "test images by their own names": (
        [("good", "", GOOD), ("bad", "", BAD, "test_{}.png")],
        "its name speaks of tests",
    ),
    "a mask of one bright colour": (
        [*FLAT, ("mask", "masks", BAD), ("white", "masks", HELD)],
        "of one colour, and not",
    ),
    "classes at different depths": (
        [(what, f"{below}/{folder}", *rest) for below in ("a", "b/2024") for what, folder, *rest in CLASSIC],
        "images in folders of no class: 18",
    ),
    "masks beside the classes": (
        [
            *((what, f"{name}/{folder}", *rest) for name in "ab" for what, folder, *rest in CLASSIC),
            ("mask", "masks/a/bent", BAD),
        ],
        r"would become one class, but look like several: 2\n  a/train\n  b/train",
    ),
}
