from __future__ import annotations

import pytest
from torch import nn

from sparsecc.graph.fx.evaluating import evaluating


def test_each_part_is_as_it_was_afterwards() -> None:
    module = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()))
    module[1].eval()
    with pytest.raises(KeyError), evaluating(module):
        assert not any(part.training for part in module.modules())
        raise KeyError
    assert [part.training for part in module.modules()] == [True, True, False, False]
