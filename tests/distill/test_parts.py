"""Gradients that are accumulated over the parts of a batch are the whole batch's."""

import copy

import pytest
import torch

from occdistill.distill.base import only_grad
from tests.distill.test_contract import METHODS, SHAPE, make_batch, teacher


def gradients(method, name, parts):
    """Of the mean loss over the parts; random layers draw nothing in these networks."""
    method.zero_grad()
    with only_grad(method.nets, name):
        for part in parts:
            (method.losses(name, make_batch(part), 5).total / len(parts)).backward()
    return {
        key: parameter.grad.clone()
        for key, parameter in method.nets[name].named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("key", METHODS)
def test_parts_add_up_unless_the_method_says_that_it_compares_the_batch(key):
    cls, options = METHODS[key]
    method = cls(teacher(), SHAPE, **options)
    worst = 0.0
    for name in method.nets:
        whole = gradients(copy.deepcopy(method), name, [(0, 1, 2)])
        added = gradients(copy.deepcopy(method), name, [(0,), (1,), (2,)])
        assert whole.keys() == added.keys()
        size = torch.cat([g.flatten() for g in whole.values()]).norm()
        gap = torch.cat([(added[k] - g).flatten() for k, g in whole.items()]).norm()
        worst = max(worst, float(gap / size))
    assert (worst > 1e-3) == method.whole_batch
