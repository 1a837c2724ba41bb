"""Attention (``iOS18/transformers.py``)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lvexport.validation.mil.call import Call
from lvexport.validation.mil.program import Opset
from lvexport.validation.mil.table import op


@op("scaled_dot_product_attention", since=Opset.IOS18)
def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, call: Call, attn_mask: Tensor | None = None
) -> Tensor:
    """query [B, …, L, E], key [B, …, S, E], value [B, …, S, EV] → [B, …, L, EV].

    A mask of truth values says which elements take part; one of numbers is added to the scores.
    """
    scores = call.sums.matmul(query, key.transpose(-1, -2)) / math.sqrt(query.shape[-1])
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return call.sums.matmul(call.sums.softmax(scores, -1), value)
