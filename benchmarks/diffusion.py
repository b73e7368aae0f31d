"""Time the U-Net's forward pass and training step, and SDAS sampling with and without guidance.

Usage: python -m benchmarks.diffusion [--dataset MTD] [--batch 4] [--parts forward training sampling]

Sizes come from the dataset's configs. Weights are random, as speed does not depend on them. The baselines run in
float32 on contiguous tensors, with attention in three operations (product, softmax, product). In training, Adam and the
weight average update the tensors one by one. In sampling, images are made one at a time.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks import measure
from benchmarks.measure import Row, Way, Work
from guided_diffusion.guidance import ClassifierGuidance
from realnet import config
from realnet.config import ClassifierConfig, DiffusionConfig, SampleConfig, paths
from realnet.models.build import build_classifier, build_diffusion, build_unet
from realnet.runtime.placement import compile_networks
from realnet.runtime.precision import Precision
from realnet.sdas.sampler import Draw, Sampler, sample_batch
from realnet.training.optimisation import EMA, Optimisation

PARTS = ("forward", "training", "sampling")
NUM_CLASSES = 15


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute attention in three operations, with the whole matrix of weights in memory."""
    weights = (query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])).softmax(dim=-1)
    return weights @ value


def plainly() -> AbstractContextManager:
    """Replace fused attention by :func:`plain_attention`."""
    return patch("torch.nn.functional.scaled_dot_product_attention", plain_attention)


class Bench:
    """The networks of a dataset's configs, and a batch of noisy images."""

    def __init__(self, dataset: str, batch: int, ways: list[Way]) -> None:
        folder = paths.experiment(dataset)
        self.diffusion_config = config.load(DiffusionConfig, folder / "diffusion.yaml")
        size = f"image_size={list(self.diffusion_config.image_size)}"  # a dataset of one class has no classifier
        self.classifier_config = config.load(ClassifierConfig, folder / "classifier.yaml", [size])
        self.settings = config.load(SampleConfig, folder / "sample.yaml")
        device = ways[0].number_format.device
        self.device, self.batch, self.ways = device, batch, ways
        self.unet = build_unet(self.diffusion_config, NUM_CLASSES).to(device)
        self.world = build_diffusion(self.diffusion_config.process)
        shape = (batch, 3, *self.diffusion_config.image_size)
        self.x, self.noise = torch.randn(shape, device=device), torch.randn(shape, device=device)
        self.t = torch.randint(self.world.num_steps, (batch,), device=device)
        self.y = torch.randint(NUM_CLASSES, (batch,), device=device)

    def forward(self) -> Iterator[Row]:
        """Time the U-Net alone."""

        def run(way: Way) -> Callable[[], None]:
            return partial(work, way.number_format.running(way.ready(self.unet, self.settings.runtime)))

        @torch.no_grad()
        def work(network: Callable[..., Tensor]) -> None:
            network(self.x, self.t, self.y)

        yield from self._rows(f"batch {self.batch}", run, partial(work, self.unet), [self.unet.eval()])

    def training(self) -> Iterator[Row]:
        """Time a training step: loss, gradients, Adam, and the average of the weights."""
        average = EMA(self.unet.train(), 0.9999)

        def step(unet: nn.Module, number_format: Precision, optimisation: Optimisation) -> None:
            with number_format.autocast():
                loss = self.world.training_losses(unet, self.x, self.t, self.noise, y=self.y).loss.mean()
            optimisation.backward(loss)
            optimisation.step(0)
            average.update(unet)

        def run(way: Way) -> Callable[[], None]:
            unet = copy.deepcopy(self.unet) if way.compilation else self.unet
            compile_networks(way.runtime(self.diffusion_config.runtime), unet)
            way.number_format.apply()
            optimiser, number_format = self.diffusion_config.optimiser, way.number_format
            optimisation = Optimisation(unet.parameters(), optimiser, num_steps=1000, precision=number_format)
            return partial(step, unet, number_format, optimisation)

        adam = torch.optim.Adam(self.unet.parameters(), foreach=False, fused=False)

        def plain() -> None:
            adam.zero_grad()
            self.world.training_losses(self.unet, self.x, self.t, self.noise, y=self.y).loss.mean().backward()
            nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0, foreach=False)
            adam.step()
            for averaged, current in zip(average.model.parameters(), self.unet.parameters(), strict=True):
                averaged.data.lerp_(current.data, 1 - average.decay)

        yield from self._rows(f"batch {self.batch}", run, plain, [self.unet])

    def sampling(self) -> Iterator[Row]:
        """Time sampling of whole images with the configured number of steps."""
        classifier = build_classifier(self.classifier_config, NUM_CLASSES).to(self.device).eval().requires_grad_(False)
        single = measure.plain_float32(self.device)
        names = tuple(map(str, range(NUM_CLASSES)))
        draws = [Draw("", names[i % NUM_CLASSES], seed=i, strength=0.15) for i in range(self.batch)]
        for guidance in (None, ClassifierGuidance(classifier)):
            sampler = Sampler(
                diffusion=build_diffusion(self.diffusion_config.process, self.settings.respacing),
                unet=self.unet.eval(),
                guidance=guidance,
                classes=names,
                image_size=self.diffusion_config.image_size,
                source="",
                health=None,
                has_schedule=False,
            )

            def run(way: Way, sampler: Sampler = sampler) -> Work:
                used = replace(sampler, unet=way.ready(self.unet, self.settings.runtime))
                if sampler.guidance:
                    guide = way.ready(classifier, self.settings.runtime, differentiable=True)
                    used = replace(used, guidance=ClassifierGuidance(guide))
                return partial(sample_batch, used, draws, self.settings, way.number_format)

            def plain(sampler: Sampler = sampler) -> None:
                for draw in draws:
                    sample_batch(sampler, [draw], self.settings, single)

            title = f"{self.batch} images, {'guided' if guidance else 'no guidance'}"
            yield from self._rows(title, run, plain, [self.unet, classifier])

    def _rows(self, title: str, run: Callable[[Way], Work], plain: Work, models: list[nn.Module]) -> Iterator[Row]:
        """Time the baseline, then each way."""
        for model in models:
            model.to(memory_format=torch.contiguous_format)
        single = measure.plain_float32(self.device)
        with plainly():
            flops = 0 if "guided" in title else measure.flop_count(plain)  # torch's counter fails on guidance
            baseline = measure.seconds(plain, self.device, repeats=2)
        yield Row(f"{title}, plain float32", baseline, flops, measure.matrix_rate(single))
        for model in models if self.device.type == "cuda" else []:
            model.to(memory_format=torch.channels_last)
        for way in self.ways:
            wall = measure.seconds(run(way), self.device, repeats=2)
            yield Row(f"{title}, {way}", wall, flops, measure.matrix_rate(way.number_format), baseline)


def main() -> None:
    """Print the table."""
    parser = measure.arguments(__doc__)
    parser.add_argument("--dataset", default="MVTec-AD", metavar="NAME", help="whose configs give the sizes")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    flags = parser.parse_args()
    device = measure.prepare(flags)
    bench = Bench(flags.dataset, flags.batch, measure.ways(device))
    print(measure.header(device))
    for part in flags.parts:
        measure.show(part, getattr(bench, part)())


if __name__ == "__main__":
    main()
