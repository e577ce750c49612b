"""The network of models/text_decoder: grouped-query attention with a cache, rotary embedding, RMSNorm, a gated MLP."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY = 256
LAYERS, WIDTH, HIDDEN = 4, 128, 384
HEADS, KV_HEADS = 4, 2
HEAD = WIDTH // HEADS
THETA = 10000.0
EPSILON = 1e-5


class Norm(nn.Module):
    """Root mean square normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPSILON) * self.weight


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding: the halves of a head are the two coordinates."""
    first, second = x[..., : HEAD // 2], x[..., HEAD // 2 :]
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def repeated(x: Tensor) -> Tensor:
    """Each head of keys or values, once for each query head that reads it."""
    batch, heads, length, size = x.shape
    each = HEADS // KV_HEADS
    return x[:, :, None].expand(batch, heads, each, length, size).reshape(batch, HEADS, length, size)


class Attention(nn.Module):
    """Grouped-query attention over the cache and the new tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(WIDTH, HEADS * HEAD, bias=False)
        self.k_proj = nn.Linear(WIDTH, KV_HEADS * HEAD, bias=False)
        self.v_proj = nn.Linear(WIDTH, KV_HEADS * HEAD, bias=False)
        self.o_proj = nn.Linear(HEADS * HEAD, WIDTH, bias=False)

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor, past: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, length = x.shape[0], x.shape[1]
        q = rotated(self.q_proj(x).view(batch, length, HEADS, HEAD).transpose(1, 2), *turn)
        k = rotated(self.k_proj(x).view(batch, length, KV_HEADS, HEAD).transpose(1, 2), *turn)
        v = self.v_proj(x).view(batch, length, KV_HEADS, HEAD).transpose(1, 2)
        k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        scores = torch.matmul(q, repeated(k).transpose(2, 3)) * HEAD**-0.5 + mask
        mixed = torch.matmul(scores.softmax(-1), repeated(v))
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, HEADS * HEAD)), k, v


class Layer(nn.Module):
    """Attention, then a gated MLP, each behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.input_norm, self.self_attn, self.post_norm = Norm(), Attention(), Norm()
        self.gate_proj = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.up_proj = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.down_proj = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor, past: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        mixed, k, v = self.self_attn(self.input_norm(x), turn, mask, past)
        x = x + mixed
        inner = self.post_norm(x)
        return x + self.down_proj(functional.silu(self.gate_proj(inner)) * self.up_proj(inner)), k, v


class Decoder(nn.Module):
    """Bytes in, logits of the next byte out; the cache comes as keys and values of each layer in turn."""

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = Norm()
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.register_buffer("frequencies", THETA ** (-torch.arange(0, HEAD, 2) / HEAD), persistent=False)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, *past: Tensor
    ) -> tuple[Tensor, ...]:
        x = self.embed_tokens(input_ids)
        angles = position_ids[..., None].to(x.dtype) * self.frequencies
        angles = torch.cat([angles, angles], dim=-1)[:, None]
        turn, mask = (angles.cos(), angles.sin()), _mask(attention_mask, input_ids)
        present: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            x, k, v = layer(x, turn, mask, (past[2 * number], past[2 * number + 1]))
            present += [k, v]
        return (self.lm_head(self.norm(x)), *present)


def _mask(attention_mask: Tensor, input_ids: Tensor) -> Tensor:
    """[batch, 1, new, past + new], added to scores: later tokens and padding are not seen."""
    total, new = attention_mask.shape[1], input_ids.shape[1]
    column = torch.arange(total, device=input_ids.device)
    seen = (column[None, :] <= column[total - new :, None])[None] & (attention_mask[:, None, :] > 0)
    lowest = torch.full((), torch.finfo(torch.float32).min)
    return torch.where(seen, torch.zeros(()), lowest)[:, None]


def empty_cache(batch: int) -> list[Tensor]:
    """Keys and values of no tokens."""
    return [torch.zeros(batch, KV_HEADS, 0, HEAD) for _ in range(2 * LAYERS)]


def cache_names(side: str) -> list[str]:
    """Names of the cache's tensors as Hugging Face's exporters write them; `side` is past_key_values or present."""
    return [f"{side}.{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value")]
