"""A process that measures one thing: python -m birefnet.bench.worker, driven by JSON lines over its pipes.

One request a line on standard input, `{"do": NAME, ...}`, and one answer a line on standard output: the result, or
`{"error": LINE}`. Between requests it waits, so that processes can take turns of which only one computes. Standard
output is the channel alone; what libraries print goes to standard error.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from birefnet.bench.case import RANDOM, Case
from birefnet.bench.product import MatrixProduct
from birefnet.errors import BiRefNetError, ConfigError, InputError, first_line
from birefnet.loading import load
from birefnet.predictor import Predictor

if TYPE_CHECKING:
    from birefnet.model import BiRefNet

_STATUS = Path("/proc/self/status")
_GRID = 32


class Worker:
    """What a process can do: one method a request, whose arguments and result are plain JSON values."""

    def __init__(self) -> None:
        self._predictor: Predictor | None = None
        self._images = np.empty(0, np.float32)
        self._products: dict[str, MatrixProduct] = {}

    def load(self, case: dict[str, Any]) -> dict[str, Any]:
        """Make a model ready, and run it once at another size: what a process does once is not the first call's.

        Returns:
            "seconds" of loading, "engine" and "precision" that were chosen, "size" as [height, width], and "notes".
        """
        start = time.perf_counter()
        wanted = Case(**{**case, "size": case["size"] and tuple(case["size"])})
        predictor = self._predictor = _load(wanted)
        seconds = time.perf_counter() - start
        height, width = predictor.spec.size
        images = np.random.default_rng(0).standard_normal((wanted.batch, 3, height, width), np.float32)
        self._images = images
        notes = list(predictor.notes)
        if predictor.mirror:
            notes.append("a photo takes two runs: these weights look at its mirror image as well (--no-mirror)")
        try:
            predictor.engine(np.ascontiguousarray(images[:, :, : _other(height), : _other(width)]))
        except InputError as error:
            notes.append(f"runs at its own size only, so the first call holds what a process does once ({error})")
        engine = predictor.engine
        return {
            "seconds": seconds,
            "engine": type(engine).__name__.removesuffix("Engine").lower(),
            "precision": engine.precision,
            "size": [height, width],
            "notes": notes,
        }

    def run(self) -> dict[str, Any]:
        """Run the model once on the batch.  -> "seconds" and "peak" memory of this process so far, in bytes."""
        assert self._predictor is not None, "load comes first"
        start = time.perf_counter()
        self._predictor.engine(self._images)
        return {"seconds": time.perf_counter() - start, "peak": peak_memory()}

    def multiply(self, precision: str) -> dict[str, Any]:
        """Run one large matrix product.  -> "seconds" and "flops"."""
        if precision not in self._products:
            self._products[precision] = MatrixProduct(precision)
        product = self._products[precision]
        return {"seconds": product(), "flops": product.flops}

    def count(self, model: str, size: list[int], accept_licence: bool) -> dict[str, Any]:
        """Count the multiplications of one image of a size (height, width).  -> "macs"."""
        from birefnet.model.count import count_cost

        return {"macs": count_cost(_network(model, accept_licence), (size[0], size[1])).macs}

    def write(self, model: str, path: str, accept_licence: bool) -> dict[str, Any]:
        """Write a network in the format that the suffix of a path says.  -> nothing."""
        network = _network(model, accept_licence)
        suffix = Path(path).suffix
        if suffix == ".xml":
            from birefnet.export.openvino import export_openvino

            export_openvino(network, path)
        elif suffix == ".onnx":
            from birefnet.export.onnx import export_onnx

            export_onnx(network, path)
        else:
            network.save(path)
        return {}


def _load(case: Case) -> Predictor:
    choices: dict[str, Any] = {"engine": case.engine, "size": case.size, "accept_licence": case.accept_licence}
    # What is left to the engine is not said, so that its own default holds.
    choices |= {} if case.precision == "auto" else {"precision": case.precision}
    choices |= {} if case.threads is None else {"threads": case.threads}
    return load(case.model, **choices)


def _network(model: str, accept_licence: bool) -> "BiRefNet":
    """Load or draw a network by the name a case has for it."""
    if Path(model).suffix.lower() in (".onnx", ".xml"):
        raise ConfigError(f"{model}: a file of an engine holds no network to count or to export")
    if model.startswith(RANDOM):
        from birefnet.bench.networks import random_network

        return random_network(model.removeprefix(RANDOM))
    from birefnet.model import BiRefNet

    return BiRefNet.from_pretrained(model, accept_licence=accept_licence)


def _other(side: int) -> int:
    """A side that is smaller, a multiple of 32 still; the same where it cannot be."""
    return max(side // 2 // _GRID, 1) * _GRID


def peak_memory() -> int:
    """The most memory this process has held, in bytes."""
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):  # not Linux, where getrusage would count the process this one was forked from
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return int(line.split()[1]) * 1024


def serve(requests: IO[str], answers: IO[str]) -> None:
    """Answer requests until there are none."""
    worker = Worker()
    known: dict[str, Callable[..., dict[str, Any]]] = {
        name: getattr(worker, name) for name in ("load", "run", "multiply", "count", "write")
    }
    for line in requests:
        request = json.loads(line)
        try:
            answer = known[request.pop("do")](**request)
        except BiRefNetError as error:
            answer = {"error": str(error)}
        except MemoryError:
            answer = {"error": "not enough memory on this machine"}
        except Exception as error:  # a library's own; the row says what, and the other rows go on
            answer = {"error": f"{type(error).__name__}: {first_line(error)}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    """Keep standard output for answers, and serve."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
