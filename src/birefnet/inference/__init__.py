"""A loaded network transformed for inference: the same arithmetic in fewer and cheaper steps.

`optimise` makes the inference form of a network. Each of its rewrites is exact but for rounding, and proven so by tests
in float64.
"""

from birefnet.inference.form import InferenceModel, optimise
from birefnet.inference.precision import choose_precision

__all__ = ["InferenceModel", "choose_precision", "optimise"]
