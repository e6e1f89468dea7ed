"""Stochastic depth: skip a residual branch for random samples while training."""

from torch import Tensor, nn


class DropPath(nn.Module):
    """Zero a residual branch per sample with a probability and rescale the rest (Huang et al., arXiv 1603.09382)."""

    def __init__(self, probability: float = 0.0) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Return x with random samples set to zero in training mode, x itself otherwise."""
        if self.probability == 0.0 or not self.training:
            return x
        keep = 1.0 - self.probability
        mask = x.new_empty(x.shape[0], *(1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * mask / keep

    def extra_repr(self) -> str:
        """Show the probability in the printed module tree."""
        return f"{self.probability:g}"
