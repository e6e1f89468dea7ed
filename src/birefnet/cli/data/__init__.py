"""`birefnet data` and its commands."""

from birefnet.cli.data.command import data

__all__ = ["data"]
