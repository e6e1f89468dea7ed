"""What the processes of a run do together; `birefnet.training.processes` brings them together.

Every process runs the same program on its share of each batch. Two strategies: "ddp" keeps the whole network on every
device and averages gradients; "fsdp" cuts parameters, gradients and the optimizer's state into shards, one a device,
for networks that are too large to be kept whole. Either way a run's files hold whole tensors under their plain names,
so that it can go on with another strategy, or on another number of devices.
"""

import copy
import inspect
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from birefnet.errors import ConfigError
from birefnet.model import BiRefNet, TrainOutput
from birefnet.modules.sync_norm import synchronize
from birefnet.training.blocks import blocks_of

T = TypeVar("T")

# PyTorch 2.13 has renamed the argument and warns of the old name.
_SYNC_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel).parameters
)


class TrainStep(nn.Module):
    """What all processes run on their share of a batch: the network with everything that is supervised.

    Attributes:
        model: the network.
        run: what runs it in place of its `forward_train`, such as a compiled version of that.
    """

    def __init__(self, model: BiRefNet) -> None:
        super().__init__()
        self.model = model
        self.run: Callable[[Tensor], TrainOutput] | None = None

    def forward(self, images: Tensor) -> TrainOutput:
        """Run the network.  (B, 3, H, W) -> `TrainOutput`."""
        run = self.run or self.model.forward_train
        return _tied(run(images))


class Parallel:
    """One process among those that train together.

    All methods but `main` and those that say otherwise are for all processes to call, in the same order.

    Attributes:
        rank: which process this is, from 0.
        world: how many there are.
        device: where this one computes.
        strategy: "ddp" or "fsdp".
        doing: what this process exchanges with the others at the moment, for messages.
    """

    def __init__(self, rank: int, world: int, device: torch.device, strategy: str) -> None:
        self.rank = rank
        self.world = world
        self.device = device
        self.strategy = strategy
        self.doing = "the exchange of gradients and statistics"

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes files and talks to the user."""
        return self.rank == 0

    def wrap(self, model: BiRefNet) -> nn.Module:
        """Make the module that training calls, with the parameters of the first process on all of them.

        The network must be on `device`, its frozen parameters known, and optimizers are made afterwards: with "fsdp"
        the network's parameters are replaced by shards of them. Batch norm that trains takes its statistics over all
        processes.

        Returns:
            A module that maps images (B, 3, H, W) to `TrainOutput`; gradients of a process's mean loss become the mean
            over all processes. The network itself stays usable for evaluation and its names are as before.

        Raises:
            ConfigError: no parameter is left to train.
        """
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ConfigError("nothing is left to train: all of the network's parameters are frozen")
        step = TrainStep(model)
        if self.world == 1:
            return step
        synchronize(model)
        if self.strategy == "fsdp":
            self._shard(model)
            return step
        return DistributedDataParallel(
            step,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            # Synchronized statistics are the same everywhere by themselves.
            **{_SYNC_BUFFERS: False},  # type: ignore[arg-type]
            gradient_as_bucket_view=True,
        )

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process, so that all act on it at the same step."""
        if self.world == 1:
            return flag
        with self._at("agreeing on how to go on"):
            # On the CPU whatever the device: the question must not wait for the work that is queued on a GPU.
            answer = torch.tensor(int(flag))
            dist.all_reduce(answer, op=dist.ReduceOp.MAX)
            return bool(answer)

    def gather(self, value: T) -> list[T]:
        """Collect a value that can be pickled from every process, in the order of ranks, on all of them."""
        if self.world == 1:
            return [value]
        with self._at("gathering results"):
            data = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
            sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
            dist.all_gather(sizes, torch.tensor([data.numel()]))
            longest = max(int(size) for size in sizes)
            padded = torch.zeros(longest, dtype=torch.uint8)
            padded[: data.numel()] = data
            everyone = [torch.empty_like(padded) for _ in range(self.world)]
            dist.all_gather(everyone, padded)
            return [
                pickle.loads(part[: int(size)].numpy().tobytes()) for part, size in zip(everyone, sizes, strict=True)
            ]

    def barrier(self) -> None:
        """Wait until every process has come here."""
        if self.world > 1:
            with self._at("waiting for all processes"):
                dist.all_reduce(torch.zeros(()))

    def accumulating(self, wrapped: nn.Module, more: bool) -> AbstractContextManager[None]:
        """Add up gradients without exchanging them, for forward and backward passes within the context.

        Args:
            wrapped: what `wrap` has returned.
            more: whether further passes follow before the optimizer's step; the last one must exchange.
        """
        if more and isinstance(wrapped, DistributedDataParallel):
            return wrapped.no_sync()
        model = _network(wrapped)
        return _without_reduction(model) if more and isinstance(model, FSDPModule) else nullcontext()

    def clip(self, model: nn.Module, most: float) -> Tensor:
        """Scale gradients down to a norm of at most `most`, over all parameters and all shards of them.

        Returns:
            The norm before, a scalar on the device and the same on all processes; not finite where a gradient is not.
        """
        with self._at("measuring the gradient"):
            norm = nn.utils.clip_grad_norm_(model.parameters(), most)
            return full(norm)

    def full_state(self, model: nn.Module | Mapping[str, Tensor], *, everywhere: bool = False) -> dict[str, Tensor]:
        """Copy a network's state, or any tensors by name such as averaged ones, whole and to the CPU.

        Returns:
            Whole tensors under the network's own names; nothing on processes but the first, unless `everywhere`.
        """
        state = _network(model).state_dict() if isinstance(model, nn.Module) else model
        keep = self.main or everywhere
        with self._at("collecting the weights"):
            # One tensor at a time: a network that is sharded need not fit on a device.
            return {name: copied for name, value in state.items() if (copied := _to_cpu(value, keep)) is not None}

    def load_full_state(self, model: nn.Module | Mapping[str, Tensor], state: Mapping[str, Tensor] | None) -> None:
        """Put a whole state of the first process into the network, or into tensors by name, on all of them.

        Args:
            model: where to.
            state: what `full_state` has returned; needed on the first process alone.

        Raises:
            ConfigError: a name or a shape differs from the network's.
        """
        targets = _network(model).state_dict() if isinstance(model, nn.Module) else model
        fault = _misfit(targets, state or {}) if self.main else ""
        faults = [text for text in self.gather(fault) if text]
        if faults:
            raise ConfigError(faults[0])
        with self._at("handing out the weights"):
            for name, target in targets.items():
                self._hand_out(target, state[name] if self.main and state is not None else None)

    def full_optimizer_state(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Copy an optimizer's state, whole and to the CPU, with the names of the network's parameters.

        Returns:
            `state`, values by parameter name and by their own, and `groups`, the settings of each parameter group with
            the names of its `params`; nothing on processes but the first.
        """
        names = {id(parameter): name for name, parameter in _network(model).named_parameters()}
        values: dict[str, dict[str, Any]] = {}
        with self._at("collecting the optimizer's state"):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    kept = {
                        key: _to_cpu(value, self.main) if isinstance(value, Tensor) else value
                        for key, value in optimizer.state.get(parameter, {}).items()
                    }
                    if kept:
                        values[names[id(parameter)]] = kept
        if not self.main:
            return {}
        groups = [
            {
                **copy.deepcopy({k: v for k, v in group.items() if k != "params"}),
                "params": [names[id(parameter)] for parameter in group["params"]],
            }
            for group in optimizer.param_groups
        ]
        return {"state": values, "groups": groups}

    def load_full_optimizer_state(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any] | None
    ) -> None:
        """Put a whole state of the first process into an optimizer of the same groups, on all of them.

        Args:
            model: the network whose parameters it moves.
            optimizer: where to.
            state: what `full_optimizer_state` has returned; needed on the first process alone.

        Raises:
            ConfigError: the optimizer has other parameters.
        """
        names = {id(parameter): name for name, parameter in _network(model).named_parameters()}
        own = [[names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]
        # Settings and small values travel pickled, tensors of a parameter's size by themselves.
        outline = self._outline(state) if self.main and state is not None else None
        found = self.gather(outline)[0]
        if found is None or [group["params"] for group in found["groups"]] != own:
            raise ConfigError("the optimizer's state belongs to other parameters than those that are trained")
        content: dict[int, dict[str, Any]] = {}
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        with self._at("handing out the optimizer's state"):
            for i, parameter in enumerate(parameters):
                name = names[id(parameter)]
                for key, value in found["state"].get(name, {}).items():
                    if isinstance(value, torch.dtype):
                        target = torch.empty_like(parameter, dtype=value, requires_grad=False)
                        self._hand_out(target, state["state"][name][key] if self.main and state else None)
                        value = target
                    content.setdefault(i, {})[key] = value
        groups, place = [], 0
        for group in found["groups"]:
            groups.append({**group, "params": list(range(place, place + len(group["params"])))})
            place += len(group["params"])
        optimizer.load_state_dict({"state": content, "param_groups": groups})

    @staticmethod
    def _outline(state: Mapping[str, Any]) -> dict[str, Any]:
        """What all processes must know of an optimizer's state: a type stands for a tensor that is yet to come."""
        return {
            "groups": state["groups"],
            "state": {
                name: {
                    key: value.dtype if isinstance(value, Tensor) and value.ndim > 0 else value
                    for key, value in values.items()
                }
                for name, values in state["state"].items()
            },
        }

    @torch.no_grad()
    def _hand_out(self, target: Tensor, whole: Tensor | None) -> None:
        """Fill a tensor, or every process's shard of it, from the first process's whole one."""
        if isinstance(target, DTensor):
            source = torch.empty(target.shape, dtype=target.dtype, device=self.device)
            if whole is not None:
                source.copy_(whole)
            target.copy_(distribute_tensor(source, target.device_mesh, target.placements))
            return
        if whole is not None:
            target.copy_(whole)
        if self.world > 1:
            # Broadcasting needs memory without gaps, in the order of dimensions.
            sent = target.to(self.device).contiguous()
            dist.broadcast(sent, src=0)
            target.copy_(sent)

    def _shard(self, model: BiRefNet) -> None:
        """Shard a network in place, block by block, so that one block at a time is whole."""
        for tensor in (*model.parameters(), *model.buffers()):
            self._hand_out(tensor.detach(), tensor.detach() if self.main else None)
        mesh: DeviceMesh = init_device_mesh(self.device.type, (self.world,))
        for block in blocks_of(model).values():
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        register_fsdp_forward_method(model, "forward_train")

    @contextmanager
    def _at(self, doing: str) -> Iterator[None]:
        before, self.doing = self.doing, doing
        yield
        self.doing = before  # not after an error: the message names what was being done


def full(tensor: Tensor) -> Tensor:
    """Put a tensor together from the shards of all processes; one that is whole is returned as it is."""
    if not isinstance(tensor, DTensor):
        return tensor
    whole: Tensor = tensor.full_tensor()
    return whole


def local(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor, sharing its memory; all of a tensor that is whole.

    What is done element by element, such as averaging weights over time, needs no more than this.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    shard: Tensor = tensor.to_local()
    return shard


def _network(module: nn.Module) -> nn.Module:
    """Take the network out of what `Parallel.wrap` has put around it."""
    if isinstance(module, DistributedDataParallel):
        module = module.module
    return module.model if isinstance(module, TrainStep) else module


@contextmanager
def _without_reduction(model: FSDPModule) -> Iterator[None]:
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


@torch.no_grad()
def _to_cpu(tensor: Tensor, keep: bool) -> Tensor | None:
    """Copy a tensor, whole, to the CPU; None where it is not to be kept, after the exchange that others need."""
    whole = full(tensor.detach())
    return whole.to("cpu", copy=True) if keep else None


def _misfit(targets: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Say how a state does not fit, "" if it does."""
    for fault, names in (("lacks", targets.keys() - state.keys()), ("has unknown", state.keys() - targets.keys())):
        if names:
            first = min(names)
            return f"the state {fault} {first}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
    for name, target in targets.items():
        if target.shape != state[name].shape:
            return f"{name} is {tuple(state[name].shape)} in the state but {tuple(target.shape)} in the network"
    return ""


class _Tie(torch.autograd.Function):
    """Pass tensors on as they are; where some get no gradient, it is zero."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        del ctx
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        del ctx
        return gradients


def _tied(output: TrainOutput) -> TrainOutput:
    """Tie the outputs together, so that every parameter gets a gradient whichever of them the losses look at.

    DDP waits for a gradient of each parameter; an output without a loss would leave it waiting. Labels are no outputs.
    """
    sequences = (output.side_logits, output.gradient_logits, output.earlier_logits)
    tensors = [output.logits, *(tensor for sequence in sequences for tensor in sequence)]
    if output.class_logits is not None:
        tensors.append(output.class_logits)
    tied = list(_Tie.apply(*tensors))  # type: ignore[no-untyped-call]
    logits = tied.pop(0)
    side, gradient, earlier = (tuple(tied.pop(0) for _ in sequence) for sequence in sequences)
    class_logits = tied.pop(0) if tied else None
    return TrainOutput(logits, side, gradient, output.gradient_labels, earlier, class_logits)
