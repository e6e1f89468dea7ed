"""A network on a GPU without waiting for Python: by captured graphs, or by a compiler.

A network has thousands of kernels, and a fast GPU is done with most of them before Python has launched the next. A CUDA
graph launches all of them at once (https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/), and a compiler
makes them fewer. On a CPU neither applies, and networks run as they are.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from birefnet.errors import ConfigError, first_line
from birefnet.inference.memory import SizeCache

Network = Callable[[Tensor], Tensor]
"""Maps images (B, 3, H, W) to (B, 1, H, W), or any tensor to another whose size follows from its own."""

METHODS = ("graphs", "compile", "eager")

# Graphs kept: each holds its own input and output, and they share the memory between.
_SIZES = 4
# Sizes whose calls are counted before they are captured.
_COUNTED = 64
# Compilation takes up to minutes a size, and the compiler itself gives up after as many.
_COMPILED_SIZES = 8
# Largest difference of a replayed result, relative to the largest value: kernels may differ from those of the eager
# run, while a graph that read stale memory gives something else altogether.
_REPLAY_BOUND = 0.02


class Accelerated:
    """Runs a network as it is; what derives from it runs it faster. For one thread at a time.

    Args:
        network: The network, in evaluation mode.

    Attributes:
        notes: A line for a person on everything that did not work as hoped.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.notes: list[str] = []

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Run the network; the result is the caller's to keep.  (B, 3, H, W) -> (B, 1, H, W)."""
        return self.network(images)


def accelerate(
    network: Network,
    device: torch.device | str,
    *,
    method: str = "graphs",
    sizes: int = _SIZES,
    compile_mode: str | None = None,
) -> Accelerated:
    """Make a network faster on a GPU, and leave it as it is on any other device.

    Args:
        network: The network, in evaluation mode, on the device.
        device: Where it runs.
        method: "graphs" captures a CUDA graph for each size that comes more than once, "compile" uses `torch.compile`,
            "eager" does nothing.
        sizes: How many graphs are kept.
        compile_mode: The mode of `torch.compile`, such as "max-autotune"; its default where None.

    Raises:
        ConfigError: there is no such method.
    """
    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}: known are {', '.join(METHODS)}")
    if torch.device(device).type != "cuda" or method == "eager":
        return Accelerated(network)
    if method == "compile":
        return CompiledNetwork(network, mode=compile_mode)
    return GraphedNetwork(network, sizes=sizes)


class GraphedNetwork(Accelerated):
    """Runs a network by a graph for each size, kept for the sizes used last.

    A size is captured when it comes for the second time, so that sizes that come once cost nothing; one that lost its
    graph to others, at its next call whose number is a power of two, so that many sizes in turn cost little more. One
    that cannot be captured runs as it is from then on.

    Args:
        network: The network. What it reads besides its input must not move: between two calls of the same size it may
            neither load weights nor change device.
        sizes: How many graphs are kept.
        capture: Makes a graph from the network and images: called with images of the same size, it gives the result.
    """

    def __init__(
        self, network: Network, *, sizes: int = _SIZES, capture: Callable[[Network, Tensor], Network] | None = None
    ) -> None:
        super().__init__(network)
        self._capture = capture or _Capture()
        self._sizes = sizes
        self._graphs: OrderedDict[tuple[object, ...], Network] = OrderedDict()
        self._calls: SizeCache[list[int]] = SizeCache(_COUNTED)
        self._refused: set[tuple[object, ...]] = set()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Run the network; the result is the caller's to keep.  (B, 3, H, W) -> (B, 1, H, W)."""
        key = (*images.shape, images.dtype, images.device, images.stride())
        graph = self._graphs.get(key)
        if graph is not None:
            self._graphs.move_to_end(key)
            return graph(images)
        calls = self._calls.get(key, lambda: [0])
        calls[0] += 1
        if key in self._refused or calls[0] == 1 or calls[0].bit_count() > 1:
            return self.network(images)
        try:
            graph = self._capture(self.network, images)
        except Exception as error:  # whatever capturing meets, the network may still run
            output = self.network(images)  # if not, its own error is what there is to say
            self._refused.add(key)
            size = " x ".join(map(str, images.shape))
            self.notes.append(f"no CUDA graph for {size} ({first_line(error)}); it runs without one")
            return output
        self._graphs[key] = graph
        if len(self._graphs) > self._sizes:
            self._graphs.popitem(last=False)
        return graph(images)


class _Capture:
    """Makes CUDA graphs that share the memory they work in, as they never run at the same time."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, network: Network, images: Tensor) -> Network:
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        return _CudaGraph(network, images, self._pool)


class _CudaGraph:
    """The kernels of one call, launched together.

    Raises:
        RuntimeError: the network does what cannot be captured, such as waiting for a value, or the replayed result
            is another than that of the network.
    """

    def __init__(self, network: Network, images: Tensor, pool: Any) -> None:
        with torch.cuda.device(images.device):
            self.images = images.clone()
            # On a stream of its own, as capturing demands: whatever is made or tuned once is so before the capture.
            current, side = torch.cuda.current_stream(), torch.cuda.Stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                network(self.images)
                with FromOutside() as outside:
                    expected = network(self.images)
            current.wait_stream(side)
            self.kept = outside.tensors
            self.graph = torch.cuda.CUDAGraph()
            try:
                # What other threads do on the GPU meanwhile is no error.
                with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
                    self.output = network(self.images)
                actual = self(images)
            finally:
                torch.cuda.synchronize()
        check_replay(actual, expected)

    def __call__(self, images: Tensor) -> Tensor:
        self.images.copy_(images, non_blocking=True)
        self.graph.replay()
        return self.output.clone()  # the next replay, of whichever graph, writes over it


def check_replay(actual: Tensor, expected: Tensor) -> None:
    """Compare what a graph gives with what the network gave.

    Raises:
        RuntimeError: they differ by more than kernels do.
    """
    largest = float(expected.abs().max())
    if not torch.allclose(actual, expected, rtol=0, atol=_REPLAY_BOUND * max(largest, 1.0), equal_nan=True):
        raise RuntimeError("the graph does not give what the network gives")


class FromOutside(TorchDispatchMode):
    """Holds all tensors that operators read but did not make: weights, and what the network keeps for a size.

    A graph reads them by their addresses. Held here, they stay where they are though the network forgets them.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._outside: dict[int, Tensor] = {}
        self._made: set[int] = set()

    @property
    def tensors(self) -> list[Tensor]:
        """Those found, of each memory one."""
        return list(self._outside.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the tensors that go into an operator, and those that come out."""
        for tensor in _tensors((args, kwargs)):
            address = tensor.untyped_storage().data_ptr()
            # What was made and freed may have had this address before; what comes from outside had it all the time.
            if address not in self._made:
                self._outside.setdefault(address, tensor)
        result = func(*args, **(kwargs or {}))
        addresses = {tensor.untyped_storage().data_ptr() for tensor in _tensors(result)}
        self._made |= addresses - self._outside.keys()
        return result


def _tensors(values: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


class CompiledNetwork(Accelerated):
    """Runs a network through `torch.compile`, anew for each of the first sizes, and as it is where that fails.

    Args:
        network: The network.
        mode: Of `torch.compile`: "default", "reduce-overhead" with CUDA graphs of its own, "max-autotune".
        backend: The compiler.
        sizes: How many sizes are compiled; further ones run as they are.
    """

    def __init__(
        self,
        network: Network,
        *,
        mode: str | None = None,
        backend: str | Callable[..., Any] = "inductor",
        sizes: int = _COMPILED_SIZES,
    ) -> None:
        super().__init__(network)
        self._compiled: Network | None = torch.compile(network, dynamic=False, mode=mode, backend=backend)
        self._sizes: set[tuple[int, ...]] = set()
        self._most = sizes

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Run the network; the result is the caller's to keep.  (B, 3, H, W) -> (B, 1, H, W)."""
        if self._compiled is None or not self._wanted(tuple(images.shape)):
            return self.network(images)
        try:
            torch.compiler.cudagraph_mark_step_begin()
            return self._compiled(images).clone()  # the next call may write over what the compiler returned
        except Exception as error:  # whatever the compiler meets, the network may still run
            output = self.network(images)  # if not, its own error is what there is to say
            self._compiled = None
            reason = getattr(error, "inner_exception", error)  # the compiler wraps what went wrong
            self.notes.append(f"torch.compile failed ({first_line(reason)}); the network runs without it")
            return output

    def _wanted(self, size: tuple[int, ...]) -> bool:
        if size in self._sizes:
            return True
        if len(self._sizes) < self._most:
            self._sizes.add(size)
            return True
        note = f"only the first {self._most} sizes are compiled; others run without it"
        if note not in self.notes:
            self.notes.append(note)
        return False
