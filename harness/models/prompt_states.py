"""Prompt states of many prompts: in host memory, and on the device those of the batches that are being made.

Letters: B prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

States = dict[str, Tensor]
_BATCHES = 2  # on the device: the one that is made, and the case that costs are measured on


class PromptStates:
    """What a text encoder says of each prompt, encoded once. encode: one prompt's states, each (1, ...). What is the
    same for all prompts, as those of the negative one, is held once."""

    def __init__(self, encode: Callable[[str], States]) -> None:
        self._encode = encode
        self._held: dict[str, States] = {}
        self._shared: States = {}
        self._device = torch.device("cpu")
        self._there: dict[tuple[str, ...], list[States]] = {}

    def lacking(self, prompts: Sequence[str]) -> list[str]:
        """Those that are not encoded yet, each once."""
        return [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._held]

    def prepare(self, prompts: Sequence[str]) -> None:
        """Encode those that are not encoded yet."""
        for prompt in self.lacking(prompts):
            found = self._encode(prompt)
            self._device = next(iter(found.values())).device
            self._held[prompt] = {name: self._once(name, state.cpu()) for name, state in found.items()}

    def batch(self, prompts: Sequence[str]) -> States:
        """States (B, ...) of some prompts, on the encoder's device."""
        self.prepare(prompts)
        asked = tuple(prompts)
        states = self._there.pop(asked, None)
        if states is None:
            states = [{name: one.to(self._device) for name, one in self._held[prompt].items()} for prompt in asked]
        self._there[asked] = states  # the newest one last
        while len(self._there) > _BATCHES:
            del self._there[next(iter(self._there))]
        return {name: torch.cat([state[name] for state in states]) for name in states[0]}

    def _once(self, name: str, state: Tensor) -> Tensor:
        shared = self._shared.setdefault(name, state)
        return shared if shared is state or torch.equal(shared, state) else state
