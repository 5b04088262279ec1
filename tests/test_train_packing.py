"""Prefix trees, and attention along them, against what they stand for: the sequences one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from rightcall.train import attention as tree_attention
from rightcall.train.attention import CannotPack, Tree, attention
from rightcall.train.packing import PackedTree, pack, unique_tokens

sequences_of = st.lists(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=12),
    min_size=1,
    max_size=10,
)


def arrays(drawn) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (np.array([i for i, _ in s]), np.array([n > 0 and on for n, (_, on) in enumerate(s)]))
        for s in drawn
    ]


def path(tree: PackedTree, token: int) -> list[int]:
    above = [k for k in range(token + 1) if token < tree.end[k]]
    return [int(tree.ids[k]) for k in above]


@given(sequences_of)
def test_a_tree_holds_every_prefix_once_and_nothing_else(drawn):
    sequences = arrays(drawn)
    tree = pack(sequences)
    prefixes = {tuple(ids[:n].tolist()) for ids, _ in sequences for n in range(1, len(ids) + 1)}
    found = [tuple(path(tree, token)) for token in range(tree.unique)]
    assert len(found) == len(set(found))
    assert set(found) == prefixes
    assert [len(p) - 1 for p in found] == tree.depth.tolist()
    assert tree.raw == sum(len(ids) for ids, _ in sequences)
    assert unique_tokens([ids for ids, _ in sequences]) == tree.unique


@given(sequences_of)
def test_each_trained_token_of_each_sequence_is_scored_where_it_stands(drawn):
    sequences = arrays(drawn)
    tree = pack(sequences)
    expected = [
        (owner, tuple(ids[:t].tolist()), int(ids[t]))
        for owner, (ids, trained) in enumerate(sequences)
        for t in np.flatnonzero(trained)
    ]
    found = [
        (int(owner), tuple(path(tree, tree.predictor[term])), int(tree.target[term]))
        for owner, term in zip(tree.owner, tree.term, strict=True)
    ]
    assert found == expected
    terms = list(zip(tree.predictor.tolist(), tree.target.tolist(), strict=True))
    assert len(terms) == len(set(terms)), "a term is scored once"


def branching(seed: int, prompt: int, branches: int, steps: int) -> PackedTree:
    """Long shared runs, short ones between branches, and a branch of a branch."""
    random = np.random.default_rng(seed)
    sequences = []
    head = random.integers(0, 50, prompt)
    for _ in range(branches):
        prefix = head
        for _ in range(steps):
            for length in random.integers(1, 130, 2):
                ids = np.concatenate([prefix, random.integers(0, 50, length)])
                sequences.append((ids, np.arange(len(ids)) >= len(prefix)))
            prefix = sequences[-1][0]
    return pack(sequences)


def seen(tree: PackedTree, window: int | None) -> torch.Tensor:
    place = np.arange(tree.unique)
    mask = (place[None] <= place[:, None]) & (place[:, None] < tree.end[None])
    if window is not None:
        mask &= tree.depth[:, None] - tree.depth[None] < window
    return torch.from_numpy(mask)


def test_a_window_that_hides_nothing_costs_nothing():
    tree = Tree.of(branching(4, 100, 2, 2))
    assert tree.products(100_000) is tree.products(None)
    assert tree.products(50) is not tree.products(None)


class Layer(torch.nn.Module):
    layer_idx = 3


def inputs(count: int, heads: int, kv: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, h, count, 16, dtype=dtype, generator=generator, requires_grad=True)
        for h in (heads, kv, kv)
    ]


@pytest.mark.parametrize("generic", [False, True], ids=["cpu kernel", "plain products"])
@pytest.mark.parametrize("window", [None, 40, 500])
@pytest.mark.parametrize(("prompt", "branches", "steps"), [(300, 3, 3), (1, 4, 2), (97, 1, 1)])
def test_block_attention_is_masked_attention_forward_and_backward(
    prompt, branches, steps, window, generic, monkeypatch
):
    if generic:
        monkeypatch.setattr(tree_attention, "_has_flash", lambda device: False)
    packed = branching(1, prompt, branches, steps)
    found, expected = (inputs(packed.unique, 4, 2, torch.float64) for _ in range(2))
    tree = Tree.of(packed)
    made, _ = attention(Layer(), *found, None, rightcall_tree=tree, sliding_window=window)
    dense = scaled_dot_product_attention(*expected, attn_mask=seen(packed, window), enable_gqa=True)
    assert torch.allclose(made, dense.transpose(1, 2), atol=1e-10)
    weight = torch.randn(made.shape, dtype=made.dtype, generator=torch.Generator().manual_seed(1))
    (made * weight).sum().backward()
    (dense.transpose(1, 2) * weight).sum().backward()
    for own, theirs in zip(found, expected, strict=True):
        assert own.grad is not None
        assert torch.allclose(own.grad, theirs.grad, atol=1e-10)
    assert tree.layers == {3}


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
def test_flex_attention_sees_what_the_blocks_see():
    from torch.nn.attention.flex_attention import flex_attention

    packed = branching(2, 60, 2, 2)
    query, key, value = (t.detach() for t in inputs(packed.unique, 2, 2, torch.float32))
    for window in (None, 50):
        tree = Tree.of(packed)
        blocks, _ = attention(
            Layer(), query, key, value, None, rightcall_tree=tree, sliding_window=window
        )
        flex = flex_attention(query, key, value, block_mask=Tree.of(packed).mask(window))
        assert torch.allclose(blocks, flex.transpose(1, 2), atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"s_aux": torch.zeros(4)}, {"softcap": 30.0}, {"dropout": 0.1}, {"rightcall_tree": None}],
)
def test_attention_that_a_tree_cannot_do_is_refused(options):
    packed = branching(3, 20, 1, 1)
    query, key, value = inputs(packed.unique, 2, 2, torch.float32)
    with pytest.raises(CannotPack):
        attention(Layer(), query, key, value, None, **{"rightcall_tree": Tree.of(packed), **options})


def test_in_half_precision_gradients_are_those_of_single_precision_but_for_rounding():
    packed = branching(5, 200, 2, 3)
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        found = inputs(packed.unique, 2, 2, torch.bfloat16)
        made, _ = attention(
            Layer(), *(t.to(dtype) for t in found), None, rightcall_tree=Tree.of(packed)
        )
        made.float().square().sum().backward()
        grads.append([t.grad.float() for t in found])
    for exact, rounded in zip(*grads, strict=True):
        assert (exact - rounded).norm() < 0.02 * exact.norm()
