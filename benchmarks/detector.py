"""Time the detector: inference by batch size and number format, a training step, and AFS.

Usage: python -m benchmarks.detector [--config experiments/MTD/realnet.yaml] [--batches 1 16] [--parts inference afs]

Weights are random, as speed does not depend on them. The baselines run in float32 on contiguous tensors. The baseline
of inference is the plain forward pass. In training, it runs the backbone on every image and on every original, even if
they are equal, and Adam updates the tensors one by one. For AFS, it runs the backbone once for each block.
"""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.measure import Row, Way
from realnet import config
from realnet.config import OptimiserConfig, RealNetConfig
from realnet.detection.maps import anomaly_maps
from realnet.models.afs import afs_criteria, afs_criterion
from realnet.models.build import build_detector
from realnet.models.losses import cross_entropy_loss, reconstruction_loss
from realnet.models.realnet import RealNet
from realnet.runtime.devices import send
from realnet.runtime.placement import compile_networks, move_to_device
from realnet.runtime.precision import Precision
from realnet.training.optimisation import Optimisation
from realnet.training.pairs import detect_pairs

PARTS = ("inference", "training", "afs")


def inference(model: RealNet, described: RealNetConfig, ways: list[Way], batches: list[int]) -> Iterator[Row]:
    """Time anomaly maps in each way."""
    device = ways[0].number_format.device
    for batch in batches:
        image = torch.randn(batch, 3, *described.image_size, device=device)

        @torch.no_grad()
        def plain(image: Tensor = image) -> Tensor:
            return model(image).anomaly_map

        model.eval()
        single = measure.plain_float32(device)
        flops = measure.flop_count(plain)
        baseline = measure.seconds(plain, device)
        yield Row(f"batch {batch}, plain float32", baseline, flops, measure.matrix_rate(single))
        expected = plain()[:, 0]
        for way in ways:
            used = way.ready(model, described.runtime)
            run = partial(anomaly_maps, used, image, way.number_format)
            wall = measure.seconds(run, device)
            apart = float((run().maps - expected).abs().max())
            name = f"batch {batch}, {way} (maps {apart:.4f} apart)"
            yield Row(name, wall, flops, measure.matrix_rate(way.number_format), baseline)


def training_batch(described: RealNetConfig) -> dict[str, Tensor]:
    """Make a batch like those of the dataset: half of the items have an anomaly."""
    batch, size = described.train.batch_size, described.image_size
    clean = torch.randn(batch, 3, *size)
    mask = torch.zeros(batch, 1, *size)
    mask[::2, :, : size[0] // 4, : size[1] // 4] = 1
    has_anomaly, index = mask.flatten(1).any(dim=1), torch.arange(batch)
    return {"image": clean + mask, "clean": clean, "mask": mask, "has_anomaly": has_anomaly, "index": index}


def training(model: RealNet, described: RealNetConfig, ways: list[Way]) -> Iterator[Row]:
    """Time a training step with the configured batch size: the baseline, and each way."""
    device, batch = ways[0].number_format.device, training_batch(described)
    model.train()
    single = measure.plain_float32(device)
    plain = _plain_step(model, batch, device)
    baseline = measure.seconds(plain, device, repeats=2)
    name = f"batch {described.train.batch_size}"
    yield Row(f"{name}, plain float32", baseline, measure.flop_count(plain), measure.matrix_rate(single))
    move_to_device(model, device, described.runtime)
    flops = measure.flop_count(_training_step(model, batch, single))
    for way in ways:
        used = copy.deepcopy(model) if way.compilation else model
        compile_networks(way.runtime(described.runtime), used)
        way.number_format.apply()
        wall = measure.seconds(_training_step(used, batch, way.number_format), device, repeats=2)
        yield Row(f"{name}, {way}", wall, flops, measure.matrix_rate(way.number_format), baseline)


def _plain_step(model: RealNet, batch: dict[str, Tensor], device: torch.device) -> Callable[[], None]:
    adam = torch.optim.Adam([*model.recon.parameters(), *model.rrs.parameters()], foreach=False, fused=False)

    def step() -> None:
        image, clean, mask = (batch[key].to(device) for key in ("image", "clean", "mask"))
        original = model.select(clean)
        detection = model(image)
        loss = cross_entropy_loss(detection.logits, mask) + reconstruction_loss(detection.reconstructed, original)
        adam.zero_grad()
        loss.backward()
        adam.step()

    return step


def _training_step(model: RealNet, batch: dict[str, Tensor], number_format: Precision) -> Callable[[], None]:
    learned = [*model.recon.parameters(), *model.rrs.parameters()]
    optimisation = Optimisation(learned, OptimiserConfig(), num_steps=1000, precision=number_format)

    def step() -> None:
        with number_format.autocast():
            detection, clean = detect_pairs(model, batch, number_format.device)
            mask = send(batch["mask"], number_format.device)
            segmentation = cross_entropy_loss(detection.logits, mask)
            loss = segmentation + reconstruction_loss(detection.reconstructed, clean)
        optimisation.backward(loss)
        optimisation.step(0)

    return step


def afs(model: RealNet, described: RealNetConfig, device: torch.device) -> Iterator[Row]:
    """Time the AFS criteria of a batch: one backbone pass per block, and one pass for all blocks."""
    batch = training_batch(described)
    image, clean, mask = (batch[key].to(device) for key in ("image", "clean", "mask"))

    @torch.no_grad()
    def per_block() -> None:
        for block in model.afs.blocks:
            anomalous, original = model.backbone(image), model.backbone(clean)
            for s in block.selections:
                size = block.size(described.image_size)
                afs_criterion(anomalous[s.level.name], original[s.level.name], mask, size)

    @torch.no_grad()
    def one_pass(number_format: Precision) -> None:
        with number_format.autocast():
            levels = model.backbone(torch.cat([image, clean]))
        halves = [{name: features.chunk(2)[half] for name, features in levels.items()} for half in (0, 1)]
        afs_criteria(model.afs, halves[0], halves[1], mask)

    model.eval()
    single = measure.plain_float32(device)
    flops = measure.flop_count(per_block)
    baseline = measure.seconds(per_block, device)
    yield Row(f"batch {len(image)}, a pass for each block", baseline, flops, measure.matrix_rate(single))
    for way in measure.ways(device):
        number_format = way.number_format
        number_format.apply()
        own_flops = measure.flop_count(partial(one_pass, number_format))
        wall = measure.seconds(partial(one_pass, number_format), device)
        yield Row(f"batch {len(image)}, one pass, {way}", wall, own_flops, measure.matrix_rate(number_format), baseline)


def main() -> None:
    """Print the table."""
    parser = measure.arguments(__doc__)
    parser.add_argument("--config", type=Path, default=Path("experiments/MVTec-AD/realnet.yaml"))
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16], help="batch sizes of inference")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    flags = parser.parse_args()
    device = measure.prepare(flags)
    described = config.load(RealNetConfig, flags.config, ["backbone.weights=none", *flags.overrides])
    model = build_detector(described).to(device)
    print(measure.header(device))
    if "inference" in flags.parts:
        measure.show("inference", inference(model, described, measure.ways(device), flags.batches))
    if "training" in flags.parts:
        measure.show("training step", training(model, described, measure.ways(device)))
    if "afs" in flags.parts:
        measure.show("AFS, a batch", afs(model, described, device))


if __name__ == "__main__":
    main()
