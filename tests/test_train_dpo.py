import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rightcall.train.dpo import (
    hinge_loss,
    ipo_loss,
    log_ratio,
    robust_loss,
    sequence_logps,
    sigmoid_loss,
    token_logps,
)


def test_sigmoid_loss_of_a_hand_worked_pair():
    # margin ln 3 at β = 1: σ(ln 3) = 3/4
    loss = sigmoid_loss(torch.tensor([0.0, math.log(3.0)]), beta=1.0)
    assert loss.tolist() == pytest.approx([math.log(2), math.log(4 / 3)])


@given(st.floats(-50, 50), st.floats(0.01, 5))
def test_sigmoid_loss_falls_with_the_margin_and_stays_finite(margin, beta):
    lower, higher = sigmoid_loss(torch.tensor([margin, margin + 1], dtype=torch.float64), beta)
    assert 0 <= higher < lower < math.inf


def test_token_logps_are_log_softmax_at_the_targets():
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)) * 10
    targets = torch.tensor([0, 6, 3, 3, 1])
    expected = torch.log_softmax(logits, -1)[torch.arange(5), targets]
    torch.testing.assert_close(token_logps(logits, targets), expected)


def test_token_logps_of_half_precision_logits_are_float32():
    assert (
        token_logps(torch.zeros(1, 4, dtype=torch.bfloat16), torch.tensor([1])).dtype == torch.float32
    )


def test_sequence_logps_sum_and_count_by_owner():
    totals, counts = sequence_logps(torch.tensor([-1.0, -2.0, -4.0]), torch.tensor([0, 2, 0]), 3)
    assert totals.tolist() == [-5.0, 0.0, -2.0]
    assert counts.tolist() == [2.0, 0.0, 1.0]


def test_log_ratios_per_token_divide_by_the_length():
    policy, reference = torch.tensor([-4.0]), torch.tensor([-10.0])
    assert log_ratio(policy, reference).item() == 6
    assert log_ratio(policy, reference, torch.tensor([3.0])).item() == 2


def test_ipo_wants_a_margin_of_a_certain_size():
    margin = torch.tensor([0.0, 1.25, 2.5])
    assert torch.allclose(ipo_loss(margin, 0.4), torch.tensor([1.5625, 0.0, 1.5625]))


def test_hinge_is_content_beyond_its_margin():
    margin = torch.tensor([-1.0, 0.0, 2.0, 5.0])
    assert torch.allclose(hinge_loss(margin, 0.5), torch.tensor([1.5, 1.0, 0.0, 0.0]))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
def test_robust_over_pairs_that_are_partly_turned_round_is_sigmoid_over_right_ones(share):
    """What "unbiased" means in Chowdhury et al. (2024)."""
    margin = torch.linspace(-3, 3, 7)
    kept, turned = robust_loss(margin, 0.7, share), robust_loss(-margin, 0.7, share)
    expected = (1 - share) * kept + share * turned
    assert torch.allclose(expected, sigmoid_loss(margin, 0.7), atol=1e-6)


def test_the_gradient_of_a_log_probability_is_that_of_log_softmax():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 11, generator=generator)
    targets = torch.tensor([0, 3, 3, 10, 7])
    weight = torch.randn(5, generator=generator)
    ours, plain = (logits.clone().requires_grad_() for _ in range(2))
    (token_logps(ours * 1.0, targets) * weight).sum().backward()
    picked = torch.log_softmax(plain, -1).gather(-1, targets[:, None])[:, 0]
    (picked * weight).sum().backward()
    assert torch.allclose(ours.grad, plain.grad, atol=1e-6)
