"""Settings of the whole process that a method may change under everybody's feet: remembered, compared, restored."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.modules import module as nn_module

_fused = torch.backends.cuda


def _set_default_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)  # none costs nothing, "cpu" does


def _set_deterministic(state: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(state[0], warn_only=state[1])


def _autocast() -> tuple[bool, ...]:
    return tuple(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda"))


def _set_autocast(state: tuple[bool, ...]) -> None:
    for kind, on in zip(("cpu", "cuda"), state, strict=True):
        torch.set_autocast_enabled(kind, on)


def _cudnn() -> tuple[bool, bool]:
    return torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic


def _set_cudnn(state: tuple[bool, bool]) -> None:
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = state


def _attention() -> tuple[bool, ...]:
    return (_fused.flash_sdp_enabled(), _fused.mem_efficient_sdp_enabled(), _fused.math_sdp_enabled(), 
            _fused.cudnn_sdp_enabled())  # fmt: skip


def _set_attention(state: tuple[bool, ...]) -> None:
    setters = (
        _fused.enable_flash_sdp,
        _fused.enable_mem_efficient_sdp,
        _fused.enable_math_sdp,
        _fused.enable_cudnn_sdp,
    )
    for enable, on in zip(setters, state, strict=True):
        enable(on)


_HOOKS = (
    nn_module._global_forward_hooks, nn_module._global_forward_pre_hooks, nn_module._global_backward_hooks,
    nn_module._global_backward_pre_hooks,
)  # fmt: skip


def _global_hooks() -> tuple[tuple[Any, ...], ...]:
    return tuple(tuple(hooks.items()) for hooks in _HOOKS)


def _set_global_hooks(state: tuple[tuple[Any, ...], ...]) -> None:
    for hooks, items in zip(_HOOKS, state, strict=True):
        hooks.clear()
        hooks.update(items)


def _folder() -> str | None:
    with suppress(FileNotFoundError):  # somebody has deleted it
        return os.getcwd()
    return None


_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "the current folder": (_folder, os.chdir),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": (torch.get_default_device, _set_default_device),
    "whether gradients are taken": (torch.is_grad_enabled, torch.set_grad_enabled),
    "autocast": (_autocast, _set_autocast),
    "deterministic algorithms": (
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        _set_deterministic,
    ),
    "cuDNN's flags": (_cudnn, _set_cudnn),
    "float32 matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "the fused attention's backends": (_attention, _set_attention),
    "hooks of all modules": (_global_hooks, _set_global_hooks),
}


@dataclass(frozen=True)
class ProcessState:
    """settings: by name. random: the states of the global generators, which anybody may draw from."""

    settings: dict[str, Any]
    random: tuple[Any, ...]

    @classmethod
    def now(cls) -> ProcessState:
        on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        generators = (random.getstate(), np.random.get_state(), torch.get_rng_state(), on_gpus)
        return cls(cls._settings(), generators)

    @staticmethod
    def _settings() -> dict[str, Any]:
        """None for what cannot be told."""
        return {name: get() for name, (get, _) in _SETTINGS.items()}

    def restore(self) -> list[str]:
        """Make everything as it was; returns the names of the settings that were not. Generators are put back in
        silence."""
        now = ProcessState._settings()
        changed = [name for name, was in self.settings.items() if None not in (was, now[name]) and was != now[name]]
        for name in changed:
            _SETTINGS[name][1](self.settings[name])
        python, numpy, cpu, on_gpus = self.random
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)
        return changed
