"""The command line: a group that imports a command only when it is called, so that help is instant."""

import importlib

import click

from birefnet import __version__

COMMANDS = {
    "bench": ("birefnet.cli.bench", "Time models on this machine, beside one another."),
    "cutout": ("birefnet.cli.cutout", "Cut the foreground out of photos."),
    "data": ("birefnet.cli.data", "Check and describe photos and masks to train on."),
    "doctor": ("birefnet.cli.doctor", "Show what works on this machine, and why the rest does not."),
    "evaluate": ("birefnet.cli.evaluate", "Score predictions or a model, and compare evaluations."),
    "export": ("birefnet.cli.export", "Write a model for ONNX Runtime, OpenVINO or PyTorch programs."),
    "models": ("birefnet.cli.models", "Show, recommend and download weights."),
    "train": ("birefnet.cli.train", "Train a network, or fine-tune one on your own photos."),
}
"""Name -> (module that holds a click command of that name, its line in the help)."""


class LazyGroup(click.Group):
    """A click group whose commands live in modules of their own."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return a command."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands from the table, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in sorted(COMMANDS.items())])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version")
def main() -> None:
    """Find the foreground of any photo, to the last hair and spoke."""
