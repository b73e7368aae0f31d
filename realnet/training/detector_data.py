"""Find and check the images to train a class's detector on."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from realnet.anomalies.synthesis import AnomalySynthesizer, JointSynthesizer, build_synthesizer
from realnet.config import MaskRule, RealNetConfig, paths
from realnet.data.depth import reading_facts
from realnet.data.images import NON_ZERO
from realnet.data.index import Entry
from realnet.data.registry import OpenDataset, is_unified
from realnet.data.tiles import tiling_of
from realnet.detection.calibration import holdout_share, split_holdout
from realnet.detection.checkpoints import Subject
from realnet.detection.examples import Examples, draw_examples
from realnet.errors import UserError, for_each
from realnet.evaluation.files import TestFiles
from realnet.evaluation.split import TestSplit
from realnet.inspection.check import advise, require_sound
from realnet.inspection.repeats import Marked
from realnet.models import checkpoint
from realnet.models.realnet import Measure
from realnet.runtime.contents import digest, marks
from realnet.runtime.distributed import World
from realnet.training import state

logger = logging.getLogger("realnet")


@dataclass(frozen=True)
class DetectorData:
    """The images of a class, or of all, and the synthesizer of anomalies on them.

    ``held_out`` are normal images that training does not use (docs/method.md, Calibration). ``seed`` is that of one of
    several detectors of the class; None for the class's own, which has the config's. ``classes`` are those that a
    unified detector joins, in which case ``class_name`` is ``unified``; none for the detector of a class.
    """

    dataset: str
    class_name: str
    image_root: Path
    train: Sequence[Entry]
    test: Sequence[Entry]
    synthesizer: AnomalySynthesizer | JointSynthesizer
    held_out: Sequence[Entry] = ()
    mask_rule: MaskRule = NON_ZERO
    image_bits: int = 16
    seed: int | None = None
    classes: tuple[str, ...] = ()

    def by_class(self) -> list["DetectorData"]:
        """Return the data of each class that the detector judges; of a class's detector, these."""
        return [self._of(name) for name in self.classes] or [self]

    def _of(self, name: str) -> "DetectorData":
        return replace(
            self,
            class_name=name,
            train=_of_class(name, self.train),
            test=_of_class(name, self.test),
            synthesizer=self.synthesizer.of(name),
            held_out=_of_class(name, self.held_out),
            classes=(),
        )

    def measures(self, config: RealNetConfig) -> list[Measure | Literal["auto"]]:
        """Return what the features of each class of a unified detector are measured by; none if by no class."""
        return [] if config.features.normalise == "none" else [config.features.normalise for _ in self.classes]

    @property
    def real_files(self) -> list[Marked]:
        """Return the photographs of defects that anomalies are made of."""
        return self.synthesizer.real_files

    @property
    def name(self) -> str:
        """Return the class's name, with the seed if there is one."""
        return str(Subject(self.class_name, self.seed))

    def folder(self, purpose: paths.Purpose) -> Path:
        """Return the folder of this detector's results."""
        return paths.output(self.dataset, "realnet", purpose, self.class_name, self.seed)

    def test_split(self, config: RealNetConfig, world: World) -> TestSplit:
        """Return the class's test images at the detector's input size."""
        files = TestFiles(
            self.test,
            self.image_root,
            config.image_size,
            mask_rule=self.mask_rule,
            mask_resize=config.evaluation.mask_resize,
            image_bits=self.image_bits,
        )
        return TestSplit(files, runtime=config.runtime, world=world)

    def draw_examples(self, entries: Sequence[Entry], config: RealNetConfig) -> Examples:
        """Return images of a class to calibrate on, with local anomalies (:func:`examples.draw_examples`)."""
        synthesizer = self.synthesizer.of(self.class_name)
        return draw_examples(entries, self.image_root, synthesizer, config, image_bits=self.image_bits)

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint says of its data: its images, versions of what read them, and how."""
        numbers = {"train": len(self.train), "held_out": len(self.held_out), "test": len(self.test)}
        numbers |= {"real_defects": len(self.real_files)} if self.real_files else {}
        return {
            "data": numbers,
            **({"classes": list(self.classes)} if self.classes else {}),
            "training_images": self._marks,
            "versions": checkpoint.versions(),
            **reading_facts(self.image_bits),
        }

    @cached_property
    def _marks(self) -> list[str]:
        """Return the marks of all images that weights, statistics or thresholds see; each checkpoint holds them."""
        seen = [self.image_root / entry.filename for entry in (*self.train, *self.held_out)]
        seen += [real.image for real in self.real_files]
        return marks(seen, self._folder)

    @property
    def _folder(self) -> Path:
        return self.folder("checkpoints")

    def subject(self, config: RealNetConfig, backbone_identity: str) -> dict[str, object]:
        """Describe the detector and its training data for a run's identity (:func:`state.identity`)."""
        sources = self.synthesizer.source_files
        images = [self.image_root / entry.filename for entry in self.train]
        return {
            "stage": "detector",
            "dataset": self.dataset,
            "class": self.class_name,
            "training images": state.fingerprint(entry.filename for entry in self.train),
            "anomaly sources": state.fingerprint(file.as_posix() for file in sources),
            state.IMAGE_CONTENTS: digest(images, self._folder),
            state.SOURCE_CONTENTS: digest(sources, self._folder),
            state.FOREGROUND: ", ".join(f"{one.synthesizer.foreground}" for one in self.by_class()),
            **({"statistics of normal features": "by class"} if self.measures(config) else {}),
            **(self._held_out_subject() if config.features.normalise != "none" else {}),
            **({"masks in dataset.yaml": str(self.mask_rule)} if self.real_files else {}),  # cut the defects out
            **reading_facts(self.image_bits),
            "backbone's weights (SHA-256)": backbone_identity,
            "train.accumulation (batch norms see each micro-batch by itself)": config.train.accumulation,
        }

    def _held_out_subject(self) -> dict[str, object]:
        """Describe the held-out images, which count in the statistics of normal features."""
        images = [self.image_root / entry.filename for entry in self.held_out]
        return {
            state.HELD_OUT: state.fingerprint(entry.filename for entry in self.held_out),
            state.HELD_OUT_CONTENTS: digest(images, self._folder),
        }


def asked(config: RealNetConfig) -> dict[str, object]:
    """Return what a config asks of the features, which ``auto`` lets them choose; the stored config has the choice."""
    features = config.features
    return {"features.normalise": features.normalise, "features.shrinkage": features.shrinkage}


def _of_class(name: str, entries: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.class_name == name]


def detector_data(dataset: OpenDataset, name: str, config: RealNetConfig) -> DetectorData:
    """Find and check the images and the sources of anomalies of a class, or of all for the unified detector.

    Raises:
        UserError: if images or sources are missing or unusable.
    """
    if not is_unified(name, dataset.classes):
        return _data_of_class(dataset, name, config)
    if config.tiles and config.tiles.context:
        raise UserError(
            "tiles.context measures photographs by one class's images at each position, which a unified detector has "
            "not; set tiles.context=false, or train classes one by one"
        )
    parts = for_each(lambda one: _data_of_class(dataset, one, _with_what_it_has(dataset, one, config)), dataset.classes)
    return replace(
        parts[0],
        class_name=name,
        train=[entry for part in parts for entry in part.train],
        test=[entry for part in parts for entry in part.test],
        held_out=[entry for part in parts for entry in part.held_out],
        synthesizer=JointSynthesizer({part.class_name: part.synthesizer.of(part.class_name) for part in parts}),
        classes=dataset.classes,
    )


def _with_what_it_has(dataset: OpenDataset, class_name: str, config: RealNetConfig) -> RealNetConfig:
    """Return the config for a class of several: one without photographs of defects does without the type ``real``.

    If no class has any, or there is no other source of anomalies, the type stays, and is missed.
    """
    others = {kind: share for kind, share in config.anomalies.types.items() if kind != "real"}
    with_defects = [name for name in dataset.classes if dataset.index(name, write=False).real]
    has_source = any(share > 0 for kind, share in others.items() if kind != "normal")
    if not config.anomalies.types.get("real") or class_name in with_defects or not (with_defects and has_source):
        return config
    logger.info("%s has no photographs of defects to train on: its anomalies are of the other types", class_name)
    return config.model_copy(update={"anomalies": config.anomalies.model_copy(update={"types": others})})


def _data_of_class(dataset: OpenDataset, class_name: str, config: RealNetConfig) -> DetectorData:
    index = dataset.index(class_name, write=False)
    synthesizer = build_synthesizer(
        config.anomalies,
        dataset,
        class_name,
        image_size=config.image_size,
        tiling=tiling_of(config),
    )
    require_sound(dataset, [class_name], sources=synthesizer.source_files)
    advise(index.train)
    train, held_out = split_holdout(index.train, holdout_share(config, len(index.train)))
    return DetectorData(
        dataset.name,
        class_name,
        dataset.image_root,
        train,
        index.test,
        synthesizer,
        held_out,
        mask_rule=dataset.config.masks,
        image_bits=dataset.config.image_bits,
    )
