"""Checksums of tensors where they lie, to tell whether any bit of a model has changed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK = {"cpu": 1 << 16}  # words at a time: products stay in the cache,
_LARGE_CHUNK = 1 << 22  # or launches on a device stay few

Checksum = tuple[object, ...]


def checksums(tensors: Mapping[str, Tensor]) -> dict[str, Checksum]:
    """A checksum of every tensor's shape, type and bits; equal tensors have equal ones. One transfer per device.

    Every 32-bit word is multiplied by a random number of 64 bits that belongs to its place, and the products are added
    modulo 2^64: a change goes unseen with a probability of 2^-32 at most. Tensors on the meta device have no bits.
    """
    sums = {name: _sums(tensor) for name, tensor in tensors.items() if not tensor.is_meta}
    read: dict[torch.device, list[int]] = {}
    for device in {tensor.device for tensor in tensors.values() if not tensor.is_meta}:
        here = [one for name, some in sums.items() if tensors[name].device == device for one in some]
        read[device] = torch.stack(here).tolist()[::-1]
    found: dict[str, Checksum] = {}
    for name, some in sums.items():
        tensor = tensors[name]
        found[name] = (tuple(tensor.shape), tensor.dtype, *(read[tensor.device].pop() for _ in some))
    return found


def _sums(tensor: Tensor) -> list[Tensor]:
    data = tensor.detach().reshape(-1).contiguous().view(torch.uint8)
    if data.numel() % 4:
        data = F.pad(data, (0, 4 - data.numel() % 4))
    elif data.storage_offset() % 4:
        data = data.clone()
    factors = _factors(data.device)
    return [(words * factors[: len(words)]).sum() for words in data.view(torch.int32).split(len(factors))]


@cache
def _factors(device: torch.device) -> Tensor:
    """Random numbers of 64 bits for one chunk; the global random state stays as it is."""
    low, high = torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max
    count = _CHUNK.get(device.type, _LARGE_CHUNK)
    return torch.randint(low, high, (count,), generator=torch.Generator().manual_seed(0), device="cpu").to(device)
