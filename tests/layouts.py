"""Views with the values of a tensor and other strides or offsets."""

from __future__ import annotations

import torch


def transposed(t):
    """The same values with the strides of a transposed tensor."""
    return t if t.dim() < 2 else t.transpose(0, -1).contiguous().transpose(0, -1)


def sliced(t):
    """Every second element of a larger tensor along each dimension."""
    padded = t.new_zeros([2 * n for n in t.shape])
    window = padded[tuple(slice(0, None, 2) for _ in t.shape)]
    window.copy_(t)
    return window


def offset(t):
    """A view that starts one element into its storage: no 16-byte alignment."""
    return torch.cat([t.new_zeros(1), t.reshape(-1)])[1:].view(t.shape)


def channels_last(t):
    return t.to(memory_format=torch.channels_last) if t.dim() == 4 else t


def expanded(t):
    """Stride 0 along the first dimension: all rows are the first."""
    return t[:1].expand(t.shape) if t.dim() and t.shape[0] else t


LAYOUTS = {
    "transposed": transposed,
    "sliced": sliced,
    "offset": offset,
    "channels_last": channels_last,
    "expanded": expanded,
}
