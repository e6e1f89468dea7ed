"""`birefnet doctor`: what works on this machine, and why the rest does not."""

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import click
import numpy as np

from birefnet import __version__
from birefnet._extras import require
from birefnet._processors import cores, cpu_instructions, processors
from birefnet.errors import BiRefNetError, first_line
from birefnet.loading import ENGINES, choose_engine, load
from birefnet.models import BUNDLED

LIBRARIES = (
    "numpy",
    "pillow",
    "opencv-python-headless",
    "onnxruntime",
    "openvino",
    "nncf",
    "onnx",
    "torch",
    "safetensors",
    "kornia",
)
DEVICES = {"torch": ("cpu", "cuda", "mps"), "onnx": ("cpu",), "openvino": ("cpu",)}
"""What each engine is tried on."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
def doctor() -> None:
    """Print versions, and which engines and devices work here; the others with the reason."""
    click.echo(f"birefnet {__version__}, Python {platform.python_version()}, {platform.platform()}")
    click.echo(
        f"{os.cpu_count()} processors, {processors()} of them for this process, {cores()} cores; {platform.machine()}"
    )
    click.echo(f"  instructions: {', '.join(cpu_instructions()) or 'the system does not tell'}")
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
        for device in DEVICES.get(engine, ()):
            yield f"engine {engine} on {device}", outcome(engine, device)
    yield "ONNX Runtime's providers", ", ".join(providers()) or "none"
    yield "OpenVINO's devices", ", ".join(openvino_devices()) or "none"
    for kind, model in (("bundled models", BUNDLED[0]), ("weights", "model.safetensors")):
        yield f"engine for {kind}", choose_engine(model)
    yield "engine for .onnx and .xml files", " and ".join(choose_engine(f"model{end}") for end in (".onnx", ".xml"))


def outcome(engine: str, device: str) -> str:
    """Run the bundled model once on a blank photo: "works" with its precision, or the error in one line."""
    try:
        predictor = load(engine=engine, device=device)
        predictor.predict(np.zeros((32, 32, 3), np.uint8))
    except BiRefNetError as error:
        return f"does not work: {error}"
    except Exception as error:  # whatever else a library raises, the other engines are to be tried too
        return f"does not work: {type(error).__name__}: {first_line(error)}"
    return f"works, in {predictor.engine.precision}"


def providers() -> list[str]:
    """ONNX Runtime's providers by the names that --provider takes; none where it cannot be imported."""
    try:
        onnxruntime = require("onnxruntime", extra=None)
    except BiRefNetError:
        return []
    from birefnet.engines.onnx_engine import short_name

    return [short_name(name) for name in onnxruntime.get_available_providers()]


def openvino_devices() -> list[str]:
    """Devices that OpenVINO finds; none without OpenVINO, or where it finds no runtime of its own."""
    from birefnet.engines.openvino_library import openvino_core

    try:
        return list(openvino_core().available_devices)
    except (BiRefNetError, RuntimeError):
        return []
