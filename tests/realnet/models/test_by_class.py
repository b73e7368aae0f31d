import torch
from torch import nn

from realnet.models.by_class import ByClass, ClassRule, looks_of


class Plus(nn.Module):
    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, x):
        return x.repeat(1, 2, 1) + self.number


def test_each_image_is_seen_by_the_module_of_its_class_also_in_an_exported_graph():
    x, classes = torch.randn(5, 2, 3), torch.tensor([2, 0, 2, 1, 0])
    module = ByClass([Plus(0), Plus(10), Plus(20)])
    expected = x.repeat(1, 2, 1) + 10.0 * classes[:, None, None]
    torch.testing.assert_close(module(x, classes), expected)
    torch.testing.assert_close(torch.export.export(module, (x, classes)).module()(x, classes), expected)


def looks(mean, number=200):
    """Features of two blocks whose means over positions vary far more along one direction than across it."""
    generator = torch.Generator().manual_seed(int(mean))
    along, across = torch.randn(2, number, generator=generator)
    wide = torch.stack([100 * along, 100 * along + across + mean], dim=1)
    noise = torch.randn(number, 2, 4, 4, generator=generator)
    noise -= noise.mean(dim=(2, 3), keepdim=True)
    return {"a": (wide[:, :1, None, None] + noise[:, :1]), "b": (wide[:, 1:, None, None] + noise[:, 1:])}


def test_classes_are_told_apart_by_what_does_not_vary_within_them():
    fitted = [looks_of(looks(mean)) for mean in (0, 60)]
    rule = ClassRule(2, 2)
    rule.fit(fitted)
    for number, mean in enumerate((0, 60)):
        assert (rule(looks(mean)) == number).float().mean() > 0.98
    rule.fit(fitted[::-1])
    assert (rule(looks(60)) == 0).float().mean() > 0.98


def test_a_channel_that_never_varies_breaks_nothing():
    fitted = [torch.cat([own, torch.ones(200, 1)], dim=1) for own in (looks_of(looks(mean)) for mean in (0, 60))]
    rule = ClassRule(2, 3)
    rule.fit(fitted)
    assert rule.whitening.isfinite().all()
