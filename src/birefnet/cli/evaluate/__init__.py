"""`birefnet evaluate` and its commands."""

from birefnet.cli.evaluate.command import evaluate

__all__ = ["evaluate"]
