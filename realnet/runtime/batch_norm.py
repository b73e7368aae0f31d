"""Batch norms in several processes: with the statistics of their batches joined, or with each one's own."""

import torch
from torch import Tensor, nn

from realnet.runtime.distributed import mean, world_size


class JointBatchNorm2d(nn.BatchNorm2d):
    """A batch norm that, in training, uses the statistics of the processes' (equally large) batches joined.

    The statistics are float32 or better, whatever the input's format, and cost one message forward and one backward.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        values = x.float()
        own_variance, own_centre = (v.double() for v in torch.var_mean(values, dim=(0, 2, 3), correction=0))
        centre, square = mean(torch.stack([own_centre, own_variance + own_centre.square()]))
        variance = square - centre.square()  # E[x²] - E[x]², harmless in float64
        self._follow(centre, variance, x.numel() // self.num_features * world_size())
        scale = (variance + self.eps).rsqrt() * (1 if self.weight is None else self.weight)
        shift = (0 if self.bias is None else self.bias) - centre * scale
        return torch.addcmul(shift.float()[:, None, None], values, scale.float()[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _follow(self, centre: Tensor, variance: Tensor, count: int) -> None:
        """Update the running statistics, with the unbiased variance of ``count`` values per channel."""
        assert self.num_batches_tracked is not None and self.momentum is not None  # BatchNorm2d's defaults
        assert self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(centre.float(), self.momentum)
        self.running_var.lerp_((variance * count / (count - 1)).float(), self.momentum)


def join_batch_norms(model: nn.Module) -> None:
    """Make a model's batch norms use the statistics of all processes' batches joined."""
    if world_size() == 1:
        return
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = JointBatchNorm2d  # its tensors, its name and its place stay
            module.forward = torch.compiler.disable(module.forward)  # type: ignore[method-assign]  # it sends messages


@torch.no_grad()
def average_running_statistics(model: nn.Module) -> None:
    """Replace the running statistics of a model's batch norms by their means over the processes, in one message."""
    if world_size() == 1:
        return
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    running = [value for norm in norms for value in (norm.running_mean, norm.running_var) if value is not None]
    means = mean(torch.cat(running)).split([value.numel() for value in running])
    for value, joined in zip(running, means, strict=True):
        value.copy_(joined)
