from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from slpd_toolkit.mil.heads.optimiser import AdamW
from tests.conftest import REPOSITORY


def test_steps_are_those_of_torch_s_adamw() -> None:
    rng = torch.Generator().manual_seed(0)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    own = AdamW(ours.parameters(), learning_rate=0.01, weight_decay=0.1)
    reference = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1, foreach=False)
    for step in range(4):
        x = torch.randn(5, 3, generator=rng)
        for model, optimiser in ((ours, own), (theirs, reference)):
            optimiser.zero_grad()
            (model(x) ** 2).sum().backward()
            if step == 2:
                model.bias.grad = None  # a parameter that had no part in this step stays as it is
            optimiser.step()
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.slow
def test_training_a_head_does_not_import_torch_s_compiler() -> None:
    program = """
import sys
import numpy as np, torch
from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.heads.head import PartRows, load_head
from slpd_toolkit.mil.tasks.likelihoods import CrossEntropy
from slpd_toolkit.mil.heads.training import HeadTraining
bags = Bags(tuple("abcdef"), np.ones((6, 4), np.float32), np.arange(7))
objective = CrossEntropy(torch.arange(6) % 2, torch.ones(6), 2)
rows = PartRows(*np.arange(6).reshape(3, 2))
load_head("abmil").train_and_predict(bags, objective, rows, HeadTraining(steps=2), (0, 0))
print(sorted({"torch._dynamo", "sympy", "sklearn", "pandas", "h5py"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
