"""Compare the reference detectors with anomalib's, fitted to the same features of the same images.

Usage: python -m benchmarks.peers --dataset NAME --class_name CLASS [--detectors padim nearest] [--seeds 0 1 2]

anomalib is no dependency of the project: pip install anomalib==2.7.0. Its own backbone is replaced by that of the
dataset's realnet.yaml. PaDiM takes the same random channels here and there, nearest neighbours draw coresets of their
own. Prints image AUROC, pixel AUROC and AUPRO in percent, as mean and standard deviation over the seeds.
"""

import argparse
from collections.abc import Iterable

import numpy as np
import torch
from anomalib.models.image.padim.torch_model import PadimModel
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from torch import Tensor, nn

from realnet.config import RealNetConfig, load, paths
from realnet.data.registry import open_dataset
from realnet.detection.checkpoints import ReferenceName
from realnet.detection.references import Nearest, PaDiM, Reference, ReferenceOutput
from realnet.evaluation.references import ReferenceMaker, score_reference
from realnet.evaluation.run import TestSplits
from realnet.evaluation.scores import curves_of, summarise
from realnet.runtime.distributed import World, join_world

METRICS = ("image_auroc", "pixel_auroc", "aupro")


class Features(nn.Module):
    """The features of a reference's backbone, by level."""

    def __init__(self, reference: Reference) -> None:
        super().__init__()
        self.reference = reference

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the levels (B, C, h, w) of images (B, 3, H, W)."""
        features = self.reference.known(images)
        return {level.name: features[level.name].float() for level in self.reference.levels}


class Peer(Reference):
    """anomalib's counterpart of a fitted reference, on the same features.

    Args:
        ours: the reference.
    """

    def __init__(self, ours: Reference) -> None:
        super().__init__(ours.known, ours.levels, ours.image_size)
        if isinstance(ours, PaDiM):
            self.model = PadimModel("resnet18", ["layer1"], pre_trained=False, n_features=1)
            self.model.idx = ours.channels
        else:
            self.model = PatchcoreModel(["layer1"], "resnet18", pre_trained=False)
        self.model.layers, self.model.feature_extractor = [level.name for level in ours.levels], Features(ours)

    def fit(self, images: Iterable[Tensor]) -> None:
        """Fit to batches of normal images, as :meth:`Reference.fit` does."""
        self.model.train()
        for batch in images:
            self.model(batch)
        if isinstance(self.model, PadimModel):
            self.model.fit()
        else:
            self.model.subsample_embedding(Nearest.SHARE)
        self.model.eval()

    @torch.no_grad()
    def predict(self, images: Tensor) -> ReferenceOutput:
        """Score images as :meth:`Reference.predict` does."""
        found = self.model(images)
        return ReferenceOutput(found.anomaly_map[:, 0], found.pred_score.flatten())


def compare(name: ReferenceName, seed: int, flags: argparse.Namespace, world: World) -> list[list[float]]:
    """Return the metrics of our reference and of anomalib's."""
    config = load(RealNetConfig, paths.experiment(flags.dataset) / "realnet.yaml").model_copy(update={"seed": seed})
    dataset = open_dataset(flags.dataset)
    maker = ReferenceMaker(dataset, flags.class_name, config, world)
    split = TestSplits(dataset, flags.class_name, config, world).at(config.image_size)
    ours = maker.fit(name)
    torch.manual_seed(seed)
    rows = []
    peer = Peer(ours)
    peer.fit(maker.batches("anomalib"))
    for one in (ours, peer):
        scores = score_reference(one, split, world=world, config=config.evaluation)
        found = summarise(curves_of(scores))
        rows.append([100 * (found[metric].value or np.nan) for metric in METRICS])
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--class_name", required=True)
    parser.add_argument("--detectors", nargs="+", choices=("padim", "nearest"), default=["padim", "nearest"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    flags = parser.parse_args()
    with join_world(None, "fp32") as world:
        for name in flags.detectors:
            rows = np.array([compare(name, seed, flags, world) for seed in flags.seeds])  # (S, 2, 3)
            for whose, figures in zip(("here", "anomalib"), rows.transpose(1, 0, 2), strict=True):
                pairs = zip(METRICS, figures.mean(axis=0), figures.std(axis=0), strict=True)
                print(f"{name:8} {whose:9}", *(f"{metric} {mean:.2f} ± {std:.2f}" for metric, mean, std in pairs))


if __name__ == "__main__":
    main()
