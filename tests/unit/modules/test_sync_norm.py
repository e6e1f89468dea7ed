"""Synchronized batch norm in one process; tests/integration/test_two_processes.py has it in two."""

import torch
from tests.support import tiny_model
from torch import nn

from birefnet.model.birefnet import trains_batch_norm
from birefnet.modules.sync_norm import SyncBatchNorm2d, synchronize


def test_alone_it_is_plain_batch_norm() -> None:
    x = torch.randn(2, 4, 3, 3)
    plain, sync = nn.BatchNorm2d(4), SyncBatchNorm2d(4)
    assert torch.equal(plain(x), sync(x))
    assert torch.equal(plain.eval()(x), sync.eval()(x))
    for name, value in plain.state_dict().items():
        assert torch.equal(sync.state_dict()[name], value)


def test_a_network_keeps_its_names_parameters_and_results() -> None:
    model = tiny_model()
    names = list(model.state_dict())
    parameters = list(model.parameters())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(image)
        count = synchronize(model)
        assert torch.equal(model(image), before)
    assert count == sum(isinstance(part, nn.BatchNorm2d) for part in model.modules())
    assert list(model.state_dict()) == names
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert synchronize(model) == 0


def test_a_single_image_a_process_is_enough_to_train_on() -> None:
    model = tiny_model().train()
    assert trains_batch_norm(model)
    synchronize(model)
    assert not trains_batch_norm(model)
