from pathlib import Path

import pytest
import skimage


@pytest.fixture(scope="session")
def astronaut() -> Path:
    """A photo that may be shown: NASA's portrait of Eileen Collins, as scikit-image carries it."""
    return Path(skimage.__file__).parent / "data" / "astronaut.png"


@pytest.fixture(scope="session")
def chelsea() -> Path:
    """A photo that may be shown: Stéfan van der Walt's cat, as scikit-image carries it."""
    return Path(skimage.__file__).parent / "data" / "chelsea.png"
