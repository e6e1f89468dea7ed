"""How the processes of a run come together and part, as torchrun starts them on one machine or on many.

    torchrun --nproc-per-node 8 -m birefnet train ...

Each finds its place and its device by the environment; the message of one that has lost the others says what to do.
"""

import ctypes
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from birefnet.errors import ConfigError, LostProcessError
from birefnet.training.parallel import Parallel

STRATEGIES = ("ddp", "fsdp")

_TIMEOUT = 600.0
"""Seconds to wait for another process: longer than the main one takes to write a checkpoint or to validate."""
_SETTLING = 0.2
"""Seconds in which threads that have finished their work get to run, before Python is taken down under them."""


@contextmanager
def joined(device: str = "auto", strategy: str = "ddp", timeout_s: float = _TIMEOUT) -> Iterator[Parallel]:
    """Join the processes that torchrun started, or be alone without it, for as long as the context lasts.

    Args:
        device: "auto" (a GPU if there is one, else the CPU), "cpu", "cuda", "cuda:1" (alone only) or "mps".
        strategy: "ddp" or "fsdp"; alone, both mean the plain network.
        timeout_s: seconds after which a process that waits for another one gives up.

    Raises:
        ConfigError: there is no such device or strategy, or the environment is not what torchrun makes.
        LostProcessError: another process has died or has left with an error, when the body next needs it.
    """
    if strategy not in STRATEGIES:
        raise ConfigError(f"unknown strategy {strategy!r}: choose from {', '.join(STRATEGIES)}")
    rank, world, local_rank = _place()
    own_device = _choose_device(device, local_rank, world)
    if world == 1:
        yield Parallel(0, 1, own_device, strategy)
        return
    group = _join(rank, world, own_device, timeout_s)
    parallel = Parallel(rank, world, own_device, strategy)
    try:
        yield parallel
        parallel.barrier()  # the first process serves the others' addresses: it must not be the first to leave
    except BaseException as error:
        # The others must not wait for what will not come: closed connections tell them at once.
        group.abort()
        if isinstance(error, RuntimeError) and _tells_of_loss(error):
            if threading.current_thread() is threading.main_thread():
                # torchrun ends what is left of the job with it: what was lost is said first.
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise LostProcessError(_lost(rank, parallel.doing, error)) from error
        raise
    finally:
        time.sleep(_SETTLING)
        dist.destroy_process_group()


def _place() -> tuple[int, int, int]:
    """Rank, number of processes, and rank on this machine, by the environment that torchrun makes."""
    world = _number("WORLD_SIZE", 1)
    if world == 1:
        return 0, 1, 0
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(f"WORLD_SIZE is {world} but {', '.join(missing)} is not set: start the run with torchrun")
    rank = _number("RANK", 0)
    if not 0 <= rank < world:
        raise ConfigError(f"RANK {rank} is not one of {world} processes: start the run with torchrun")
    return rank, world, _number("LOCAL_RANK", 0)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise ConfigError(f"{name} is {text!r}, not a number: start the run with torchrun")
    return int(text)


def _choose_device(name: str, local_rank: int, world: int) -> torch.device:
    """Find the device of this process.

    Raises:
        ConfigError: there is no such device, or not one for each process.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device {name!r}: choose auto, cpu, cuda, cuda:1 or mps") from None
    if device.type == "cpu":
        return device
    if device.type == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError("device mps is not available here: use --device cpu")
        if world > 1:
            raise ConfigError(f"device mps is one, but {world} processes were started: start one, without torchrun")
        return device
    if device.type != "cuda":
        raise ConfigError(f"no training on device {name!r}: choose auto, cpu, cuda, cuda:1 or mps")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise ConfigError(f"device {name} is not available here (no GPU that PyTorch can use): use --device cpu")
    if world > 1 and device.index is not None:
        raise ConfigError(
            f"{world} processes cannot share {name}: write --device cuda, and each takes a GPU of its own"
        )
    index = device.index if device.index is not None else local_rank
    if index >= count:
        if world > 1:
            raise ConfigError(
                f"more processes on this machine than its {count} GPU{'s' * (count > 1)}: start torchrun with "
                f"--nproc-per-node {count}"
            )
        raise ConfigError(
            f"device {name} is not there: this machine has {count} GPU{'s' * (count > 1)}, from cuda:0 on"
        )
    return torch.device("cuda", index)


def _join(rank: int, world: int, device: torch.device, timeout_s: float) -> dist.ProcessGroup:
    """Meet the other processes.

    Raises:
        LostProcessError: they did not come.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(
            # Small questions go over the CPU even where gradients go from GPU to GPU.
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=timeout_s),
        )
        dist.all_reduce(torch.zeros(()))
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise LostProcessError(
            f"the {world} processes of the run did not meet at {address} within {timeout_s:.0f} s "
            f"({_first_sentence(error)}): check that all were started and that this address is free and reached from "
            "every machine"
        ) from error
    group = dist.group.WORLD
    assert group is not None
    # The destructor of a group waits for its threads while it holds Python's lock, which they take to let go of their
    # last tensors: a process that leaves could wait for ever. So it is never run; a process has one group in its life.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))
    return group


# What gloo, NCCL and the store say when the other side is gone.
_SIGNS_OF_LOSS = re.compile(
    r"closed by peer|reset by peer|broken pipe|connection refused|timed out|timeout|nccl|remote process exited|"
    r"socket|gloo",
    re.IGNORECASE,
)


def _tells_of_loss(error: BaseException) -> bool:
    return isinstance(error, dist.DistError) or bool(_SIGNS_OF_LOSS.search(str(error)))


def _lost(rank: int, doing: str, error: BaseException) -> str:
    return (
        f"process {rank} failed at {doing} ({_first_sentence(error)}): another process of the run has died: see its "
        "own message; the run resumes from its last checkpoint"
    )


def _first_sentence(error: BaseException) -> str:
    """Begin of a message, without the place in the library's source that it may start with."""
    text = re.sub(r"^\[[^\]]*\.(cpp|cc)[^\]]*\]\s*", "", str(error).strip())
    return re.split(r"\.\s|\n", text)[0].rstrip(". ") or type(error).__name__
