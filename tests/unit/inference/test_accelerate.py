"""Graphs and compilation: their rules on a CPU, where a trace of the operators stands for a CUDA graph."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from birefnet.errors import ConfigError
from birefnet.inference.accelerate import (
    Accelerated,
    CompiledNetwork,
    FromOutside,
    GraphedNetwork,
    Network,
    accelerate,
    check_replay,
)
from birefnet.inference.memory import SizeCache
from support import tiny_model

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: no CUDA graph was captured")


class Counted:
    """Scales images, with a table for each size that it keeps for a while; counts how often Python runs it."""

    def __init__(self, kept: int = 8) -> None:
        self.calls = 0
        self.tables: SizeCache[Tensor] = SizeCache(kept)

    def __call__(self, images: Tensor) -> Tensor:
        self.calls += 1
        size = images.shape[2:]
        table = self.tables.get(size, lambda: torch.linspace(0, 1, size[0] * size[1], device=images.device).view(size))
        return (images * table).mean(1, keepdim=True)


class Tracing:
    """Captures a network by tracing it, which like a CUDA graph fails where Python waits for a value."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, ...]] = []

    def __call__(self, network: Network, images: Tensor) -> Network:
        self.sizes.append(tuple(images.shape))
        return make_fx(network)(images)


def photos(height: int = 4, width: int = 6, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(height * width)
    return torch.rand(batch, 3, height, width, generator=generator)


class TestGraphs:
    def test_a_size_is_captured_when_it_comes_again_and_python_is_left_out_then(self) -> None:
        network, capture = Counted(), Tracing()
        graphed = GraphedNetwork(network, capture=capture)
        images = photos()
        expected = Counted()(images)
        graphed(images)
        assert not capture.sizes
        graphed(images)
        assert capture.sizes == [(1, 3, 4, 6)]
        calls = network.calls
        for factor in (1.0, 2.0, -3.0):
            torch.testing.assert_close(graphed(images * factor), expected * factor)
        assert network.calls == calls
        assert not graphed.notes

    def test_another_size_type_or_order_in_memory_is_another_graph(self) -> None:
        capture = Tracing()
        graphed = GraphedNetwork(Counted(), sizes=5, capture=capture)
        images = photos()
        last = images.contiguous(memory_format=torch.channels_last)
        kinds = (images, photos(6, 4), photos(batch=2), images.double(), last)
        for _ in range(3):
            for one in kinds:
                torch.testing.assert_close(graphed(one), Counted()(one))
        assert len(capture.sizes) == len(kinds)

    def test_the_sizes_used_last_are_kept(self) -> None:
        capture = Tracing()
        graphed = GraphedNetwork(Counted(), sizes=2, capture=capture)
        one, two, three = photos(2, 2), photos(3, 3), photos(4, 4)
        for images in (one, two, three):
            graphed(images)
        for images in (one, two, one, three, one, three):  # the third takes the place of the second
            graphed(images)
        assert [size[2] for size in capture.sizes] == [2, 3, 4]
        graphed(two)
        assert [size[2] for size in capture.sizes] == [2, 3, 4]
        graphed(two)  # its fourth call without a graph, and the first one's graph was used before the third's
        assert [size[2] for size in capture.sizes] == [2, 3, 4, 3]
        graphed(three)
        assert len(capture.sizes) == 4

    def test_more_sizes_in_turn_than_are_kept_cost_few_captures(self) -> None:
        capture = Tracing()
        graphed = GraphedNetwork(Counted(), sizes=2, capture=capture)
        for _ in range(16):
            for side in (2, 3, 4):
                torch.testing.assert_close(graphed(photos(side, side)), Counted()(photos(side, side)))
        assert len(capture.sizes) <= 3 * 4

    def test_what_cannot_be_captured_runs_as_it_is_and_is_noted_once(self) -> None:
        def waits(images: Tensor) -> Tensor:
            return images.mean(1, keepdim=True) if images.shape[2] > 3 or images.sum() > 0 else -images

        capture = Tracing()
        graphed = GraphedNetwork(waits, capture=capture)
        for _ in range(4):
            torch.testing.assert_close(graphed(photos(2, 2)), waits(photos(2, 2)))
            torch.testing.assert_close(graphed(photos(4, 4)), waits(photos(4, 4)))
        assert len(capture.sizes) == 2
        (note,) = graphed.notes
        assert note.startswith("no CUDA graph for 1 x 3 x 2 x 2 (")
        assert note.endswith("); it runs without one")

    def test_an_error_of_the_network_is_its_own(self) -> None:
        message = "no such size"

        class Failing(Counted):
            broken = False

            def __call__(self, images: Tensor) -> Tensor:
                if self.broken:
                    raise ValueError(message)
                return super().__call__(images)

        network = Failing()
        graphed = GraphedNetwork(network, capture=Tracing())
        graphed(photos())
        network.broken = True
        for _ in range(2):
            with pytest.raises(ValueError, match=message):
                graphed(photos())
        network.broken = False
        torch.testing.assert_close(graphed(photos()), Counted()(photos()))
        assert not graphed.notes

    def test_a_replay_that_differs_is_refused(self) -> None:
        result = photos() * 50
        check_replay(result + 0.5, result)
        with pytest.raises(RuntimeError, match="does not give"):
            check_replay(result + 1.5, result)
        with pytest.raises(RuntimeError, match="does not give"):
            check_replay(torch.full_like(result, torch.nan), result)


class TestFromOutside:
    def test_holds_what_a_network_forgets(self) -> None:
        network = Counted(kept=1)
        network(photos(4, 6))
        address = network.tables.get((4, 6), photos).data_ptr()
        images = photos(4, 6)
        with FromOutside() as outside:
            network(images)
        network(photos(2, 2))  # pushes the table out
        assert {tensor.data_ptr() for tensor in outside.tensors} == {address, images.data_ptr()}

    def test_holds_nothing_made_inside(self) -> None:
        images = photos()
        with FromOutside() as outside:
            made = images + 1
            made[:, 0] += images[:, 1]
            torch.cat([made, made.transpose(2, 3).transpose(2, 3)], dim=1).sum()
        assert [tensor.data_ptr() for tensor in outside.tensors] == [images.data_ptr()]

    def test_finds_all_weights_and_whatever_a_network_keeps(self) -> None:
        model = tiny_model()
        images = photos(64, 64)
        with torch.inference_mode():
            model(images)
            with FromOutside() as outside:
                model(images)
        found = {tensor.untyped_storage().data_ptr() for tensor in outside.tensors}
        decoder = {weight.untyped_storage().data_ptr() for weight in model.decoder.stages.parameters()}
        assert len(found & decoder) > 10


# What the compiler imports warns, in its own code, of what it still uses.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
class TestCompiled:
    def test_compiles_each_size_once_up_to_a_number(self) -> None:
        compiled: list[int] = []

        def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
            compiled.append(len(graph.graph.nodes))
            return graph.forward

        def network(images: Tensor) -> Tensor:
            return images.mean(1, keepdim=True).sin()

        fast = CompiledNetwork(network, backend=backend, sizes=2)
        for _ in range(2):
            for side in (2, 3, 4, 5):
                torch.testing.assert_close(fast(photos(side, side)), network(photos(side, side)))
        assert len(compiled) == 2
        assert fast.notes == ["only the first 2 sizes are compiled; others run without it"]

    def test_a_compiler_that_fails_is_noted_once_and_left_alone(self) -> None:
        attempts: list[int] = []

        def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
            attempts.append(len(graph.graph.nodes))
            raise RuntimeError("no compiler found")

        fast = CompiledNetwork(lambda images: images.cos(), backend=backend)
        for side in (2, 3):
            torch.testing.assert_close(fast(photos(side, side)), photos(side, side).cos())
        assert len(attempts) == 1
        (note,) = fast.notes
        assert "no compiler found" in note
        assert "\n" not in note

    def test_an_error_of_the_network_is_its_own(self) -> None:
        fast = CompiledNetwork(lambda images: images.view(7, 7), backend="eager")
        with pytest.raises(RuntimeError, match="shape"):
            fast(photos())
        assert not fast.notes


class TestAccelerate:
    @pytest.mark.parametrize("method", ["graphs", "compile", "eager"])
    def test_a_cpu_runs_the_network_as_it_is(self, method: str) -> None:
        model = tiny_model()
        fast = accelerate(model, "cpu", method=method)
        assert type(fast) is Accelerated
        images = photos(64, 64)
        output = fast(images)
        torch.testing.assert_close(output, model(images))
        assert not output.requires_grad

    def test_an_unknown_method_lists_those_there_are(self) -> None:
        with pytest.raises(ConfigError, match="known are graphs, compile, eager"):
            accelerate(Counted(), "cpu", method="magic")


@needs_gpu
class TestOnGpu:
    def test_graphs_give_what_the_network_gives_in_any_order_of_sizes(self) -> None:
        model = tiny_model().cuda()
        fast = accelerate(model, "cuda", sizes=2)
        kinds = [photos(64, 64), photos(96, 64), photos(64, 64, batch=2), photos(64, 96)]
        kept = []
        for _ in range(3):
            kept.extend(fast(images.cuda()) for images in kinds)
        assert not fast.notes
        with torch.inference_mode():
            for index, output in enumerate(kept):
                expected = model(kinds[index % len(kinds)].cuda())
                torch.testing.assert_close(output, expected, rtol=0, atol=1e-3)

    def test_a_graph_outlives_what_the_network_keeps(self) -> None:
        network = Counted(kept=1)
        fast = GraphedNetwork(network)
        images = photos(64, 64).cuda()
        expected = Counted()(images)
        fast(images)
        fast(images)
        network(photos(8, 8).cuda())  # the table of the graph is forgotten, and its memory taken
        waste = [torch.full((64, 64), 1e9, device="cuda") for _ in range(64)]
        torch.testing.assert_close(fast(images), expected)
        assert len(waste) == 64

    def test_what_waits_for_a_value_runs_as_it_is(self) -> None:
        def waits(images: Tensor) -> Tensor:
            return images * float(images.sum())

        fast = accelerate(waits, "cuda")
        images = photos().cuda()
        for _ in range(3):
            torch.testing.assert_close(fast(images), waits(images))
        assert len(fast.notes) == 1

    def test_compiled(self) -> None:
        fast = accelerate(Counted(), "cuda", method="compile")
        images = photos().cuda()
        for _ in range(2):
            torch.testing.assert_close(fast(images), Counted()(images))
        assert not fast.notes
