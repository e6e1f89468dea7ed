import signal
from pathlib import Path

import pytest
import skimage
from PIL import Image

# A shell that starts this in the background has Ctrl-C ignored, which the processes that tests start would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def astronaut() -> Path:
    """A photo that may be shown: NASA's portrait of Eileen Collins, as scikit-image carries it."""
    return Path(skimage.__file__).parent / "data" / "astronaut.png"


@pytest.fixture(scope="session")
def chelsea() -> Path:
    """A photo that may be shown: Stéfan van der Walt's cat, as scikit-image carries it."""
    return Path(skimage.__file__).parent / "data" / "chelsea.png"


@pytest.fixture(autouse=True)
def _pixel_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what the command sets for its process end with the test that runs it in this one."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
