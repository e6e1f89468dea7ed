"""`birefnet doctor`: what works on this machine, and why the rest does not."""

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import click
import numpy as np

from birefnet import __version__
from birefnet.errors import BiRefNetError
from birefnet.loading import ENGINES, load

LIBRARIES = ("numpy", "pillow", "opencv-python-headless", "onnxruntime", "torch", "safetensors", "kornia")
DEVICES = ("cpu", "cuda", "mps")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
def doctor() -> None:
    """Print versions, and which engines and devices work here; the others with the reason."""
    click.echo(f"birefnet {__version__}, Python {platform.python_version()}, {platform.platform()}")
    click.echo(f"{os.cpu_count()} processors, {platform.machine()}")
    for library in LIBRARIES:
        try:
            click.echo(f"  {library} {version(library)}")
        except PackageNotFoundError:
            click.echo(f"  {library} is not installed")
    for name, result in examine():
        click.echo(f"  {name}: {result}")


def examine() -> Iterator[tuple[str, str]]:
    """Try the bundled model on every engine and device, and tell what came of it."""
    for engine in ENGINES:
        if engine == "auto":
            continue
        for device in DEVICES if engine == "torch" else DEVICES[:1]:
            yield f"engine {engine} on {device}", outcome(engine, device)


def outcome(engine: str, device: str) -> str:
    """Run the bundled model once on a blank photo: "works", or the error in one line."""
    try:
        load(engine=engine, device=device).predict(np.zeros((32, 32, 3), np.uint8))
    except BiRefNetError as error:
        return f"does not work: {error}"
    return "works"
