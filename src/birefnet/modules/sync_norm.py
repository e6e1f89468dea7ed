"""Batch norm over the batches of all processes, on a CPU as on a GPU.

With a few large photos on each device, a device's own statistics are noise; what all of them see together is what one
process with the whole batch would see. PyTorch's `SyncBatchNorm` does this on GPUs only; this one needs nothing but
collective operations, so that runs of several processes can be tested, and done, on any machine.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_MAP = (0, 2, 3)
"""The dimensions of a map (B, C, H, W) that statistics are taken over."""


class SyncBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose statistics, while it trains, are those of the default process group's batches together.

    Processes may have batches of different sizes. Gradients of the input are those of the sum of all processes'
    losses; gradients of weight and bias are of the process's own batch, to be added up or averaged with those of all
    other parameters. Statistics are in float32 or better whatever the type of the input, and the running ones are the
    same on all processes to the bit. Without a process group, and in evaluation mode, it is plain batch norm.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise a map.  (B, C, H, W) -> (B, C, H, W)."""
        batch_statistics = self.training or self.running_mean is None
        if not batch_statistics or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        mean, square, count = _statistics(input.detach())
        if self.training and self.track_running_stats:
            self._track(mean, square, count)
        # A fused kernel under autocast gets the parameters' own type too: they are never rounded.
        output: Tensor = _Normalise.apply(  # type: ignore[no-untyped-call]
            input, self.weight, self.bias, mean, (square / count + self.eps).rsqrt(), count
        )
        return output

    @torch.no_grad()
    def _track(self, mean: Tensor, square: Tensor, count: Tensor) -> None:
        """Move the running statistics, the variance without bias, as `nn.BatchNorm2d` does."""
        assert self.running_mean is not None
        assert self.running_var is not None
        momentum = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            momentum = 1.0 / float(self.num_batches_tracked) if momentum is None else momentum
        assert momentum is not None
        self.running_mean.mul_(1 - momentum).add_(mean.to(self.running_mean.dtype), alpha=momentum)
        variance = (square / (count - 1)).to(self.running_var.dtype)
        self.running_var.mul_(1 - momentum).add_(variance, alpha=momentum)


def synchronize(module: nn.Module) -> int:
    """Let every `nn.BatchNorm2d` within a module take its statistics over all processes, in place.

    Parameters, buffers, their names and hooks stay what they are. Subclasses, such as batch norm that is frozen, are
    left alone: they have a behaviour of their own.

    Returns:
        How many there were.
    """
    norms = [part for part in module.modules() if type(part) is nn.BatchNorm2d]
    for norm in norms:
        norm.__class__ = SyncBatchNorm2d
    return len(norms)


# Collectives between the parts of a compiled graph, not within them.
@torch.compiler.disable  # type: ignore[untyped-decorator]
@torch.no_grad()
def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Statistics of the batches of all processes together.

    The processes' own means and squared deviations are merged pairwise exactly (Chan, Golub and LeVeque 1983): no
    difference of large numbers, as a mean of squares less a squared mean would be.

    Returns:
        Mean (C), sum of squared deviations from it (C), and how many values a channel has, a scalar.
    """
    precise = _precise(x.dtype)
    values = x.numel() // x.shape[1]
    mean = x.mean(_MAP, dtype=precise)
    square = (x - _spread(mean)).square_().sum(_MAP)
    own = torch.cat([mean, square, mean.new_tensor([values])])
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, own)
    everyone = torch.stack(gathered)
    means, squares = everyone[:, :-1].chunk(2, dim=1)
    counts = everyone[:, -1:]
    count = counts.sum()
    # Deviations from the first mean: means that are large and alike lose nothing when they are averaged.
    whole_mean = means[0] + ((means - means[0]) * counts).sum(0) / count
    whole_square = (squares + counts * (means - whole_mean).square()).sum(0)
    return whole_mean, whole_square, count


class _Normalise(torch.autograd.Function):
    """(x - mean) / std * weight + bias, where mean and std depend on the inputs of all processes."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        inverse_std: Tensor,
        count: Tensor,
    ) -> Tensor:
        scale = inverse_std if weight is None else inverse_std * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        ctx.save_for_backward(x, weight, bias, mean, inverse_std, count)
        return torch.addcmul(_spread(shift), x, _spread(scale)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, inverse_std, count = ctx.saved_tensors
        deviation = x - _spread(mean)
        own = torch.cat(
            [gradient.sum(_MAP, dtype=mean.dtype), (gradient * deviation).sum(_MAP, dtype=mean.dtype) * inverse_std]
        )
        for_bias, for_weight = own.chunk(2)
        for_x = None
        if ctx.needs_input_grad[0]:
            # Every process's losses depend on this input by way of the statistics.
            everyone = own.clone()
            dist.all_reduce(everyone)
            of_mean, of_std = (everyone / count).chunk(2)
            scale = inverse_std if weight is None else inverse_std * weight
            for_x = gradient - _spread(of_mean) - deviation.mul_(_spread(of_std * inverse_std))
            for_x = for_x.mul_(_spread(scale)).to(x.dtype)
        return (
            for_x,
            for_weight.to(weight.dtype) if weight is not None and ctx.needs_input_grad[1] else None,
            for_bias.to(bias.dtype) if bias is not None and ctx.needs_input_grad[2] else None,
            None,
            None,
            None,
        )


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _spread(values: Tensor) -> Tensor:
    """Lay a value per channel over a map.  (C) -> (1, C, 1, 1)."""
    return values[None, :, None, None]
