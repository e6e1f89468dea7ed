"""The ONNX Runtime back end: small, quick to start, no torch."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from birefnet.config import InputSpec
from birefnet.errors import ConfigError, InputError, WeightsError, first_line

INPUT, OUTPUT = "image", "alpha"
METADATA_KEY = "birefnet"
"""Entry of the file's metadata: JSON with `input_spec` and what the `output` is."""


class OnnxEngine:
    """Runs an ONNX file that this package has exported, on the CPU.

    Attributes:
        input_spec: how its weights want photos prepared.

    Raises:
        WeightsError: the file is missing, damaged, or does not say what its output means.
    """

    def __init__(self, path: str | Path, *, threads: int | None = None) -> None:
        path = Path(path)
        if not path.is_file():
            raise WeightsError(f"{path}: no such file; give the path of a .onnx file")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are raised; nothing else is for users
        # Threads that spin while they wait would take the time of those that decode and write photos.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's own exceptions have no common base
            reason = first_line(error)
            raise WeightsError(f"{path}: not a model that ONNX Runtime can load ({reason})") from error
        try:
            facts = json.loads(self._session.get_modelmeta().custom_metadata_map[METADATA_KEY])
            if facts["output"] != OUTPUT:
                raise ConfigError(f"its output is {facts['output']!r}, not {OUTPUT!r}")
            self.input_spec = InputSpec.from_dict(facts["input_spec"])
        except (KeyError, TypeError, ValueError) as error:
            reason = str(error) if isinstance(error, ConfigError) else "it was not exported by birefnet"
            raise WeightsError(f"{path}: its metadata do not say what goes in and out ({reason})") from error

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Segment a batch.  (N, 3, H, W) float32 -> (N, 1, H, W) float32 in [0, 1].

        Raises:
            InputError: the images have a size that the network cannot take, or that no memory can hold.
        """
        try:
            (alpha,) = self._session.run([OUTPUT], {INPUT: images})
        except Exception as error:  # as above
            reason = first_line(error)
            raise InputError(f"the model cannot be run on {images.shape} ({reason}); choose another size") from error
        result: NDArray[np.float32] = alpha
        return result
