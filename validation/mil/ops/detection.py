"""Non-maximum suppression (``tensor_operation.py`` of iOS 15 and 17).

Boxes are (x, y, width, height) around their center. What coremltools' docstrings leave open follows the reference
in its tests (``_ref_non_maximum_suppression``): places that stay empty hold zeros and the index -1, and where no
score passes the threshold the best box is returned all the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lvexport.validation.mil.call import Call
from lvexport.validation.mil.program import Opset
from lvexport.validation.mil.table import op


@op("non_maximum_suppression", exact=True)
def non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    score_threshold: float,
    max_boxes: int,
    call: Call,
    per_class_suppression: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """boxes [n, B, 4], scores [n, B, K] → boxes and scores of the selected, their indices, and how many there are."""
    call.expect((len(boxes), max_boxes, 4))
    chosen = [
        _select(one, score, iou_threshold, score_threshold, max_boxes, per_class_suppression)
        for one, score in zip(boxes, scores, strict=True)
    ]
    index = torch.full((len(boxes), max_boxes), -1, dtype=torch.int32)
    for row, places in zip(index, chosen, strict=True):
        row[: len(places)] = places
    counts = torch.tensor([len(places) for places in chosen], dtype=torch.int32)
    return _taken(boxes, index), _taken(scores, index), index, counts


@op("non_maximum_suppression", exact=True, since=Opset.IOS17)
def non_maximum_suppression_ios17(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_boxes: int,
    call: Call,
    per_class_suppression: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """boxes [n, 4, B], scores [n, K, B]: the number of boxes comes last, and every score counts."""
    call.expect((len(boxes), 4, max_boxes))
    index = torch.full((len(boxes), max_boxes), -1, dtype=torch.int32)
    for row, one, score in zip(index, boxes.mT, scores.mT, strict=True):
        places = _select(one, score, iou_threshold, float("-inf"), max_boxes, per_class_suppression)
        row[: len(places)] = places
    return _taken(boxes.mT, index).mT, _taken(scores.mT, index).mT, index


def _select(
    boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, limit: int, per_class: bool
) -> Tensor:
    """Indices of the boxes [B, 4] that stay, best first."""
    best, kind = scores.max(-1)
    order = best.argsort(descending=True, stable=True)
    order = order[best[order] > score_threshold]
    if not per_class:
        kind = torch.zeros_like(kind)
    kept: list[int] = []
    while len(order) and len(kept) < limit:
        first, rest = order[0], order[1:]
        kept.append(int(first))
        order = rest[(kind[rest] != kind[first]) | ~(_overlap(boxes[first], boxes[rest]) > iou_threshold)]
    return torch.tensor(kept or [int(best.argmax())][:limit], dtype=torch.int32)


def _overlap(one: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of a box [4] with others [B, 4]; NaN of boxes without an area."""
    low, high = one[:2] - one[2:] / 2, one[:2] + one[2:] / 2
    lows, highs = others[:, :2] - others[:, 2:] / 2, others[:, :2] + others[:, 2:] / 2
    shared = (torch.minimum(high, highs) - torch.maximum(low, lows)).clamp(min=0).prod(-1)
    return shared / (one[2:].prod() + others[:, 2:].prod(-1) - shared)


def _taken(values: Tensor, index: Tensor) -> Tensor:
    """values [n, B, *] at index [n, max_boxes], zeros where it is -1."""
    places = index.clamp(min=0).long().unsqueeze(-1).expand(-1, -1, values.shape[-1])
    return values.gather(1, places).masked_fill((index < 0).unsqueeze(-1), 0)
