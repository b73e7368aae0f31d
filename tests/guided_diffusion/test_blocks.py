import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from guided_diffusion.blocks import (
    AttentionBlock,
    AttentionPool,
    Downsample,
    EmbedSequential,
    ResBlock,
    Upsample,
    attend,
    group_norm,
    timestep_embedding,
    zero_module,
)
from tests.closed_form import fill, wave


def plain_attention(query, key, value):
    """Softmax(qᵀk/√d)·v, written out."""
    weights = torch.einsum("bqhd,bthd->bhqt", query, key) / math.sqrt(query.shape[3])
    return torch.einsum("bhqt,bthd->bqhd", weights.softmax(dim=-1), value).flatten(2)


def test_timestep_embedding_is_cosines_then_sines():
    actual = timestep_embedding(torch.tensor([0, 7]), 6)
    angles = [7 * 10_000 ** (-i / 3) for i in range(3)]
    expected = [[1.0] * 3 + [0.0] * 3, [*map(math.cos, angles), *map(math.sin, angles)]]
    torch.testing.assert_close(actual, torch.tensor(expected))


def test_fused_attention_equals_the_plain_form_and_its_gradients():
    query, key, value = (3 * wave(name, 2, 10, 3, 8) for name in ("query", "key", "value"))
    results = []
    for attention in (attend, plain_attention):
        parts = [part.clone().requires_grad_() for part in (query, key, value)]
        answer = attention(*parts)
        results.append([answer, *torch.autograd.grad((answer * wave("answer", *answer.shape)).sum(), parts)])
    for fused, plain in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-5)


def test_attention_block_splits_heads_before_query_key_and_value():
    block = fill(AttentionBlock(64, 16))
    x = wave("x", 2, 64, 3, 5)
    qkv = F.conv1d(block.norm(x).flatten(2), block.qkv.weight, block.qkv.bias)
    parts = [qkv[:, 48 * head : 48 * head + 48].chunk(3, dim=1) for head in range(4)]
    query, key, value = (torch.stack([head[i].mT for head in parts], dim=2) for i in range(3))
    answer = F.conv1d(plain_attention(query, key, value).mT, block.proj_out.weight, block.proj_out.bias)
    expected = x + answer.reshape(x.shape)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_attention_pool_splits_query_key_and_value_before_heads():
    pool = fill(AttentionPool(num_tokens=15, channels=64, num_head_channels=16, out_channels=5))
    x = wave("x", 2, 64, 3, 5)
    tokens = torch.cat([x.mean(dim=(2, 3))[:, :, None], x.flatten(2)], dim=2) + pool.positional_embedding
    parts = F.conv1d(tokens, pool.qkv_proj.weight, pool.qkv_proj.bias).chunk(3, dim=1)
    query, key, value = (part.reshape(2, 4, 16, 16).permute(0, 3, 1, 2) for part in parts)
    answer = F.conv1d(plain_attention(query, key, value).mT, pool.c_proj.weight, pool.c_proj.bias)
    expected = answer[:, :, 0]
    torch.testing.assert_close(pool(x), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"15 positions, but this map is \(4, 5\)"):
        pool(torch.zeros(1, 64, 4, 5))


@pytest.mark.parametrize("make", [lambda: AttentionBlock(64, 48), lambda: AttentionBlock(64, 0)])
def test_heads_must_divide_the_channels(make):
    with pytest.raises(ValueError, match=r"64 channels.*heads of (48|0)"):
        make()


def test_groups_must_divide_the_channels():
    with pytest.raises(ValueError, match="48 channels"):
        group_norm(48)


@pytest.mark.parametrize("scale_shift", [True, False])
@pytest.mark.parametrize("resample", ["up", "down", None])
def test_res_block_is_its_formula(scale_shift, resample):
    block = fill(ResBlock(32, 64, emb_channels=8, scale_shift=scale_shift, resample=resample))
    x, emb = wave("x", 2, 32, 4, 6), wave("emb", 2, 8)
    size = {"up": 2.0, "down": 0.5, None: 1.0}[resample]
    mode = "area" if resample == "down" else "nearest"

    def resized(h):
        return nn.functional.interpolate(h, scale_factor=size, mode=mode)

    norm, _, conv = block.in_layers
    h = conv(resized(nn.functional.silu(norm(x))))
    shift = block.emb_layers[1](nn.functional.silu(emb))[:, :, None, None]
    norm, _, _, conv = block.out_layers
    h = norm(h) * (1 + shift[:, :64]) + shift[:, 64:] if scale_shift else norm(h + shift)
    expected = block.skip_connection(resized(x)) + conv(nn.functional.silu(h))
    torch.testing.assert_close(block(x, emb), expected)
    assert block(x, emb).shape == (2, 64, 4 * size, 6 * size)


def test_residual_branches_start_as_the_identity():
    x, emb = wave("x", 2, 64, 4, 4), wave("emb", 2, 8)
    assert torch.equal(ResBlock(64, 64, emb_channels=8)(x, emb), x)
    assert torch.equal(AttentionBlock(64, 32)(x), x)


def test_resampling_convolutions():
    x = wave("x", 1, 8, 4, 6)
    assert Downsample(8)(x).shape == (1, 8, 2, 3)
    assert Upsample(8)(x).shape == (1, 8, 8, 12)


def test_only_residual_blocks_are_given_the_embedding():
    layers = fill(EmbedSequential(nn.Conv2d(3, 32, 1), ResBlock(32, 32, emb_channels=8)))
    x, emb = wave("x", 1, 3, 4, 4), wave("emb", 1, 8)
    torch.testing.assert_close(layers(x, emb), layers[1](layers[0](x), emb))
    assert {key.split(".")[0] for key in layers.state_dict()} == {"0", "1"}


def test_zero_module_returns_the_module_with_zeros():
    layer = nn.Linear(2, 3)
    assert zero_module(layer) is layer
    assert all(parameter.abs().max() == 0 for parameter in layer.parameters())
