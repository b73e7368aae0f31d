"""Find and check the images to train a class's detector on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from realnet.anomalies.synthesis import AnomalySynthesizer, build_synthesizer
from realnet.config import RealNetConfig
from realnet.data.index import Entry
from realnet.data.registry import OpenDataset
from realnet.detection.calibration import split_holdout
from realnet.inspection.check import advise, require_sound
from realnet.models import checkpoint
from realnet.training import state


@dataclass(frozen=True)
class DetectorData:
    """A class's images, and the synthesizer of anomalies on them.

    ``held_out`` are normal images that training does not use (docs/method.md, Calibration).
    """

    dataset: str
    class_name: str
    image_root: Path
    train: Sequence[Entry]
    test: Sequence[Entry]
    synthesizer: AnomalySynthesizer
    held_out: Sequence[Entry] = ()

    def facts(self) -> dict[str, dict]:
        """Return what a checkpoint says of its data: the numbers of images, and the versions of what read them."""
        numbers = {"train": len(self.train), "held_out": len(self.held_out), "test": len(self.test)}
        return {"data": numbers, "versions": checkpoint.versions()}

    def subject(self, config: RealNetConfig, backbone_identity: str) -> dict[str, object]:
        """Describe the detector and its training data for a run's identity (:func:`state.identity`)."""
        sources = (file.as_posix() for files in self.synthesizer.sources.values() for file in files)
        return {
            "stage": "detector",
            "dataset": self.dataset,
            "class": self.class_name,
            "training images": state.fingerprint(entry.filename for entry in self.train),
            "anomaly sources": state.fingerprint(sources),
            "backbone's weights (SHA-256)": backbone_identity,
            "train.accumulation (batch norms see each micro-batch by itself)": config.train.accumulation,
        }


def detector_data(dataset: OpenDataset, class_name: str, config: RealNetConfig) -> DetectorData:
    """Find and check a class's images and the sources of its anomalies.

    Raises:
        UserError: if images or sources are missing or unusable.
    """
    index = dataset.index(class_name, write=False)
    synthesizer = build_synthesizer(
        config.anomalies,
        dataset.name,
        class_name,
        image_size=config.image_size,
        foreground=dataset.config.foreground_of(class_name),
    )
    sources = [file for files in synthesizer.sources.values() for file in files]
    require_sound(dataset, [class_name], sources=sources)
    advise(index.train)
    train, held_out = split_holdout(index.train, config.calibration.holdout_fraction)
    return DetectorData(dataset.name, class_name, dataset.image_root, train, index.test, synthesizer, held_out)
