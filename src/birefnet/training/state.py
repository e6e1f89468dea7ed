"""All that changes during a run, and how it is kept so that a run goes on as if it had never stopped."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from birefnet._atomic import atomic_path
from birefnet.config import InputSpec
from birefnet.errors import ConfigError, DataError, OutputError, first_line
from birefnet.model import BiRefNet
from birefnet.training.lora import merged_state
from birefnet.training.parallel import Parallel, local
from birefnet.training.recipe import Json, Recipe, differences
from birefnet.weights.checkpoint import write_checkpoint

FORMAT = 1

# Read by nothing here, but by whoever opens a checkpoint: it is no weights file.
_WHAT = "birefnet training checkpoint"


@dataclass
class Progress:
    """Where a run stands, in plain numbers.

    Attributes:
        step: steps taken, those without a usable gradient counted.
        skipped: how many had none.
        skipped_in_a_row: how many of them just now.
        seconds: time spent training, over all sittings.
        best: greatest (or least) value of the metric so far.
        best_step: step of that validation.
        without_better: validations since.
    """

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_step: int = 0
    without_better: int = 0


class Average:
    """Exponentially averaged weights and running statistics (Polyak averaging), kept beside those that are trained."""

    def __init__(self, model: nn.Module) -> None:
        self.values = {name: value.detach().clone() for name, value in _floating(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, decay: float) -> None:
        """Move towards the current weights."""
        current = _floating(model)
        for name, value in self.values.items():
            local(value).lerp_(local(current[name].detach()), 1 - decay)

    @contextmanager
    def inside(self, model: nn.Module) -> Iterator[None]:
        """Have the averaged weights in the model, and the trained ones back in the end, to the bit."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        for part in model.modules():
            if isinstance(part, FSDPModule):
                part.reshard()  # after a forward pass the outermost part is left whole
        for name, value in _floating(model).items():
            current, averaged = local(value.detach()), local(self.values[name])
            kept = current.clone()  # one tensor at a time: no room for a third copy of all is needed
            current.copy_(averaged)
            averaged.copy_(kept)


@dataclass
class Session:
    """A run in memory.

    Attributes:
        recipe: what is done.
        parallel: the processes that do it.
        model: the network itself.
        network: what is called with images to train: the model, wrapped for the processes and savings.
        optimizer: of the parameters that are trained.
        scaler: of the loss, for float16; does nothing otherwise.
        average: averaged weights, None where the last ones are kept.
        input_spec: how photos are prepared for the weights that are saved.
        photos: how many there are to train on.
        progress: where the run stands.
    """

    recipe: Recipe
    parallel: Parallel
    model: BiRefNet
    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: Average | None
    input_spec: InputSpec
    photos: int = 0
    progress: Progress = field(default_factory=Progress)

    @contextmanager
    def weights_to_keep(self) -> Iterator[None]:
        """Have those weights in the model that are validated and saved: the averaged ones, if there are any."""
        if self.average is None:
            yield
        else:
            with self.average.inside(self.model):
                yield

    def save_weights(self, path: Path) -> None:
        """Write the weights to keep as a weights file, adapters merged. To be called on every process.

        Raises:
            OutputError: the file cannot be written.
        """
        with self.weights_to_keep():
            state = self.parallel.full_state(self.model)
        if self.parallel.main:
            state = merged_state(self.model, state) if self.recipe.lora else state
            write_checkpoint(state, path, self.model.config, self.input_spec)

    def save_checkpoint(self, path: Path) -> None:
        """Write all that a run needs to go on, whole or not at all. To be called on every process.

        Raises:
            OutputError: the file cannot be written; the previous one is then untouched.
        """
        parallel = self.parallel
        content = {
            "what": _WHAT,
            "format": FORMAT,
            "recipe": self.recipe.to_dict(),
            "progress": asdict(self.progress),
            "model": parallel.full_state(self.model),
            "optimizer": parallel.full_optimizer_state(self.model, self.optimizer),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else parallel.full_state(self.average.values),
            "random": parallel.gather(_random_states(parallel.device)),
        }
        if not parallel.main:
            return
        with atomic_path(path) as temporary:
            try:
                torch.save(content, temporary)
            except RuntimeError as error:  # torch's own writer reports a full disk so
                raise OutputError(f"{path}: cannot be written, is the disk full? ({first_line(error)})") from error

    def load_checkpoint(self, path: Path) -> None:
        """Put the run back to where its checkpoint was written.

        Raises:
            DataError: the file is damaged.
            ConfigError: the run had another recipe, or was of another number of processes.
        """
        parallel = self.parallel
        # Only the first process need see the run's folder: it hands everything out.
        content: Json = read_checkpoint(path) if parallel.main else {}
        small: Json = {name: content.get(name) for name in ("recipe", "progress", "scaler", "random")}
        small = parallel.gather(small)[0]
        changes = differences(small["recipe"], self.recipe.to_dict())
        if changes:
            raise ConfigError(f"{path}: belongs to another recipe ({'; '.join(changes)}): use another run folder")
        try:
            parallel.load_full_state(self.model, content.get("model"))
            parallel.load_full_optimizer_state(self.model, self.optimizer, content.get("optimizer"))
            self.scaler.load_state_dict(small["scaler"])
            if self.average is not None:
                parallel.load_full_state(self.average.values, content.get("average"))
            self.progress = Progress(**small["progress"])
            random = small["random"]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: does not fit this network ({error}): start the run anew") from error
        # Of another number of processes the streams differ: dropout then goes on from the seed.
        if len(random) == parallel.world:
            _set_random_states(random[parallel.rank], parallel.device)


def read_checkpoint(path: Path) -> Json:
    """Read a checkpoint of a run onto the CPU, mapped into memory.

    Raises:
        DataError: the file is missing, damaged or no such checkpoint.
    """
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such checkpoint") from error
    except Exception as error:  # torch reports damage in many ways: zip, pickle, key and runtime errors
        raise DataError(f"{path}: cannot be read as a checkpoint: remove it to start the run anew") from error
    if not isinstance(content, dict) or content.get("what") != _WHAT:
        raise DataError(f"{path}: is no checkpoint of a training run; to start from weights, use --from")
    if content["format"] != FORMAT:
        raise DataError(f"{path}: was written by another version of this program (format {content['format']})")
    return content


def _floating(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of floating point by name."""
    tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: value for name, value in tensors.items() if value.is_floating_point()}


def _random_states(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random_states(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"].clone())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].clone(), device)
