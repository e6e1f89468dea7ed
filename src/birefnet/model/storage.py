"""How a network is saved and loaded: files, folders, and repositories of the Hugging Face hub."""

import json
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from birefnet._atomic import make_folder, write_whole
from birefnet.config import InputSpec, ModelConfig
from birefnet.errors import ConfigError, WeightsError
from birefnet.hub import push_folder
from birefnet.sources import CONFIG_FILE, WEIGHTS_FILE, locate
from birefnet.weights.checkpoint import METADATA_KEY, cast, parse_facts, read_checkpoint, write_checkpoint


class Stored(nn.Module, ABC):
    """A network that knows what it is, so that it can be saved and found again.

    Attributes:
        config: what was built.
        input_spec: how photos are prepared for these weights.
        notes: lines for a person on how the weights were loaded, if anything about it was told or assumed.
    """

    def __init__(self, config: ModelConfig, input_spec: InputSpec) -> None:
        super().__init__()
        self.config = config
        self.input_spec = input_spec
        self.notes: tuple[str, ...] = ()

    @classmethod
    @abstractmethod
    def from_config(cls, config: ModelConfig | None = None, input_spec: InputSpec | None = None) -> Self:
        """Build the network with random weights."""

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        config: ModelConfig | None = None,
        input_spec: InputSpec | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = torch.float32,
        **parts: Any,
    ) -> Self:
        """Build the network that a weights file belongs to and load the file strictly; no backbone is fetched.

        Args:
            path: a `.safetensors` or `.pth` file with the reference's key names; prefixes that wrappers leave
                (`module.`, `_orig_mod.`) are removed.
            config: what to build; by default what the file's metadata says or, without any, what its keys and shapes
                say.
            input_spec: how photos are prepared; by default what the metadata says, else 1024 x 1024.
            device: where to put the network.
            dtype: type of the floating-point weights, None to keep the file's.
            parts: builders of parts of one's own that the network was made with.

        Returns:
            The network in evaluation mode.

        Raises:
            WeightsError: the file cannot be read, or does not fit; the message says what is missing, unexpected or of
                another shape.
        """
        device = _device(device)
        checkpoint = read_checkpoint(path, config=config)
        notes = checkpoint.notes
        if input_spec is None and checkpoint.input_spec is None:
            size = InputSpec().size
            notes = (*notes, f"{path}: says nothing of its input; {size[0]} x {size[1]} is assumed")
        try:
            # No time and memory for random weights that are replaced at once; but a part of one's own may make
            # tensors that no file holds.
            with torch.device("cpu" if parts else "meta"):
                model = cls(checkpoint.config, input_spec or checkpoint.input_spec or InputSpec(), **parts)
        except (ConfigError, RuntimeError) as error:  # a width no memory could hold
            raise WeightsError(f"{path}: asks for a network that cannot be built ({error})") from error
        state = checkpoint.state_for(model.config, model.state_dict())
        model.load_state_dict(cast(state, dtype), assign=True)
        model.notes = notes
        return model.to(device).eval()

    def load_weights(self, path: str | Path) -> None:
        """Load a weights file strictly into this network, which keeps its types and device.

        Raises:
            WeightsError: the file cannot be read or does not fit; the network is then unchanged.
        """
        checkpoint = read_checkpoint(path, config=self.config)
        self.load_state_dict(checkpoint.state_for(self.config, self.state_dict()))

    def save(self, path: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Save the weights, whole or not at all, with the reference's key names.

        A `.safetensors` file holds the configuration and the input's preparation too; a `.pth` file is the plain state
        dict that the reference expects.

        Args:
            path: where to, ending in `.safetensors`, `.pth` or `.pt`.
            dtype: type of the floating-point weights in the file, None for that of the network.

        Raises:
            OutputError: the file cannot be written.
        """
        write_checkpoint(self.state_dict(), path, self.config, self.input_spec, dtype=dtype)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        accept_licence: bool = False,
        input_spec: InputSpec | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = torch.float32,
        **parts: Any,
    ) -> Self:
        """Load published weights, or what `save_pretrained` has written.

        Args:
            name: a name of the zoo (`birefnet models list`), a repository of the hub ("owner/name"), a folder or a
                file. Code that a repository may hold is neither fetched nor run.
            revision: branch, tag or commit of the repository; by default the one that the zoo names, else the latest.
            accept_licence: use weights that are for non-commercial use only.
            input_spec: how photos are prepared; by default what is published with the weights.
            device: where to put the network.
            dtype: type of the floating-point weights, None to keep the file's.
            parts: builders of parts of one's own that the network was made with.

        Raises:
            WeightsError: the weights cannot be fetched or do not fit; the message says what to do.
        """
        source = locate(name, revision=revision, accept_licence=accept_licence)
        config, spec = None, source.input_spec
        facts = (source.config or {}).get(METADATA_KEY)
        if isinstance(facts, dict):
            config, spec = parse_facts(source.path, facts)
        model = cls.load(source.path, config=config, input_spec=input_spec or spec, device=device, dtype=dtype, **parts)
        model.notes = (*source.notes, *model.notes)
        return model

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write a folder in the hub's conventions: config.json, model.safetensors and a model card, README.md.

        The keys are the reference's and its own class reads the folder too. A card that is there already stays.

        Raises:
            OutputError: a file cannot be written.
        """
        folder = Path(folder)
        make_folder(folder, "name another folder")
        facts = {"config": self.config.to_dict(), "input_spec": self.input_spec.to_dict()}
        # What the reference's own class takes from this file: that there is no backbone to fetch.
        content = {"architectures": ["BiRefNet"], "bb_pretrained": False, METADATA_KEY: facts}
        self.save(folder / WEIGHTS_FILE, dtype=dtype)
        write_whole(folder / CONFIG_FILE, (json.dumps(content, indent=2) + "\n").encode())
        card = folder / "README.md"
        if not card.exists():
            write_whole(card, self.card().encode())

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool = False,
        token: str | None = None,
        message: str = "Upload weights",
        dtype: torch.dtype | None = None,
    ) -> str:
        """Save to a repository of the hub, "owner/name", which is created if need be; returns its address.

        Raises:
            WeightsError: the hub cannot be reached or refuses; the message says what to do.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, dtype=dtype)
            return push_folder(Path(folder), repository, private=private, token=token, message=message)

    def card(self) -> str:
        """Text of a model card with what is known of the network, for its author to complete."""
        millions = sum(parameter.numel() for parameter in self.parameters()) / 1e6
        height, width = self.input_spec.size
        return CARD.format(backbone=self.config.backbone, millions=millions, height=height, width=width)


def _device(device: str | torch.device) -> torch.device:
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device {device!r} is unknown; write cpu, cuda, cuda:1 or mps") from error


CARD = """---
library_name: birefnet
pipeline_tag: image-segmentation
tags:
- background-removal
- dichotomous-image-segmentation
- birefnet
---

# A BiRefNet with backbone {backbone}

{millions:.1f} million parameters, for photos at {height} x {width}.

```python
import birefnet

matte = birefnet.load("owner/name").predict("photo.jpg")
matte.cutout().save("cutout.png")
```

Say here what it was trained on, with which scores, and on which terms it may be used.
"""
