"""Drawn networks: the same every time, with offsets and norms that do something, and calm enough to compare."""

import pytest
import torch

from birefnet.bench.networks import LOGIT_STD, OFFSET_STD, random_network
from birefnet.errors import ConfigError
from birefnet.model import BiRefNet
from birefnet.modules.deform_conv import ModulatedDeformConv2d


@pytest.fixture(scope="module")
def network() -> BiRefNet:
    return random_network("mobilenet_v4_s")


def test_it_is_the_same_for_the_same_seed_and_leaves_torch_alone(network: BiRefNet) -> None:
    before = torch.get_rng_state()
    again, other = random_network("mobilenet_v4_s"), random_network("mobilenet_v4_s", seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    states = [model.state_dict() for model in (network, again, other)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["decoder.head.weight"], states[2]["decoder.head.weight"])


def test_offsets_norms_and_logits_are_spread(network: BiRefNet) -> None:
    offsets = []

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], _output: torch.Tensor) -> None:
        assert isinstance(module, ModulatedDeformConv2d)
        offsets.append(module.offset_conv(inputs[0]).std().item())

    convs = [module for module in network.modules() if isinstance(module, ModulatedDeformConv2d)]
    handles = [conv.register_forward_hook(note) for conv in convs]
    torch.manual_seed(1)
    with torch.inference_mode():
        logits = network(torch.nn.functional.interpolate(torch.randn(1, 3, 8, 8), size=(256, 256), mode="bilinear"))
    for handle in handles:
        handle.remove()
    assert len(offsets) == len(convs) > 4
    assert all(OFFSET_STD / 4 < offset < 4 * OFFSET_STD for offset in offsets)
    assert LOGIT_STD / 4 < logits.std() < 4 * LOGIT_STD
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert all(norm.running_var.std() > 0.01 for norm in norms)
    assert not network.training


def test_rounding_does_not_grow_beyond_what_a_trained_network_shows(network: BiRefNet) -> None:
    torch.manual_seed(2)
    image = torch.nn.functional.interpolate(torch.randn(1, 3, 8, 8), size=(128, 128), mode="bicubic")
    with torch.inference_mode():
        single = network(image).sigmoid()
        double = network.double()(image.double()).sigmoid()
    network.float()
    assert (single - double).abs().max() < 1e-4


def test_names_of_the_zoo_are_known_and_others_are_listed() -> None:
    with pytest.raises(ConfigError, match=r"unknown backbone or model 'swin'.*swin_v1_t"):
        random_network("swin")
