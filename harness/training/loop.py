"""One training loop: resumable from a kill at any moment, on CPU or GPU with the same code.

Whatever is random in a step comes from a generator seeded by (seed, step), so a resumed run takes exactly the
steps that an uninterrupted one takes.
"""

from __future__ import annotations

import csv
import io
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim import Optimizer

from harness import checkpoints
from harness.errors import UserError
from harness.training.alone import alone
from results.files import write_atomic

Losses = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """How long and how fast.

    steps: optimizer steps. warmup: steps of linear warm-up. decay: the last share of the steps, over which the
    learning rate falls linearly to zero. clip: gradient norm limit. apart: every parameter group of the optimizers is
    clipped by itself, instead of all together. average: decay of the exponential moving
    average of the weights, 0 for none. save_seconds: time between checkpoints.
    """

    steps: int
    warmup: int = 50
    decay: float = 0.4
    clip: float = 1.0
    apart: bool = False
    average: float = 0.0
    save_seconds: float = 60.0
    seed: int = 0
    log_every: int = 20

    def factor(self, step: int) -> float:
        """Multiple of the base learning rate at this step (from 0)."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        fall = min(1.0, (self.steps - step) / max(1.0, self.decay * self.steps)) if self.decay else 1.0
        return rise * fall


def generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The source of everything random in one step."""
    return torch.Generator(device).manual_seed((seed * 1_000_003 + step) & 0x7FFF_FFFF_FFFF)


def train(
    name: str,
    module: nn.Module,
    loss: Callable[[nn.Module, int, torch.Generator], Losses],
    optimizers: Sequence[Optimizer],
    plan: TrainingPlan,
    folder: Path,
    *,
    accelerator: Accelerator,
    trainable: Callable[[str], bool] = lambda _: True,
    after_step: Callable[[int], None] | None = None,
) -> nn.Module:
    """Train `module` in place and return it, with the averaged weights where the plan averages.

    `loss(module, step, generator)` returns the terms to log; the one named "loss" is minimised. `trainable` names
    the state-dict entries worth a checkpoint (an adapter leaves the frozen model out). `after_step(step)` runs
    after each optimizer step. Checkpoints and the log go to `folder`, which one process has at a time: another waits. A
    finished stage is returned at once. Raises UserError where the loss or a weight stops being finite; the last good
    checkpoint stays.
    """
    # the other processes of a launch are not to wait for long: their connections would time out
    lock = alone(folder, name, wait=accelerator.num_processes == 1)
    with lock if accelerator.is_main_process else nullcontext():
        accelerator.wait_for_everyone()  # the main process may have waited for what another has made
        path = folder / f"{name}.safetensors"
        average = (
            {k: v.detach().clone() for k, v in module.state_dict().items() if trainable(k)} if plan.average else {}
        )
        base_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        start = 0
        if path.exists():
            tensors, facts = checkpoints.load(path)
            start = int(facts["step"])
            module.load_state_dict({k[7:]: v for k, v in tensors.items() if k.startswith("module.")}, strict=False)
            average = {k: tensors[f"average.{k}"].to(v.device) for k, v in average.items()}
            if start < plan.steps:
                for i, optimizer in enumerate(optimizers):
                    restore_optimizer(optimizer, f"optimizer{i}", tensors)
        module.to(accelerator.device)
        ready = [accelerator.prepare(optimizer) for optimizer in optimizers]
        for state in (state for optimizer in optimizers for state in optimizer.state.values()):
            if isinstance(state.get("step"), torch.Tensor):  # a device would be waited for at each, hundreds in a step
                state["step"] = state["step"].cpu()
        average = {k: v.to(accelerator.device) for k, v in average.items()}

        def save(step: int) -> None:
            tensors = {f"module.{k}": v for k, v in module.state_dict().items() if trainable(k)}
            tensors |= {f"average.{k}": v for k, v in average.items()}
            if step < plan.steps:
                for i, optimizer in enumerate(optimizers):
                    tensors |= optimizer_tensors(optimizer, f"optimizer{i}")
            if not all(bool(v.isfinite().all()) for v in tensors.values() if v.is_floating_point()):
                raise diverged(step, "a weight is not finite")
            if accelerator.is_main_process:
                checkpoints.save(path, tensors, {"step": step, "steps": plan.steps})

        def diverged(step: int, what: str) -> UserError:
            kept = f"{path} holds the last good step" if path.exists() else "no checkpoint was written yet"
            return UserError(f"training {name!r} stopped at step {step}: {what}; {kept}. Lower the learning rate")

        saved, module_was_training = time.monotonic(), module.training
        module.train()
        rows = folder / f"{name}.csv" if accelerator.is_main_process else None
        with _Log(rows, start) as log, _progress(name, start, plan.steps, accelerator) as advance:
            for step in range(start, plan.steps):
                for optimizer, rates in zip(optimizers, base_rates, strict=True):
                    for group, rate in zip(optimizer.param_groups, rates, strict=True):
                        group["lr"] = rate * plan.factor(step)
                draw = step * accelerator.num_processes + accelerator.process_index  # every process its own samples
                terms = loss(module, step, generator(plan.seed, draw, accelerator.device))
                accelerator.backward(terms["loss"])
                _share_gradients(module, accelerator)
                if plan.clip:
                    for parameters in _clipped(module, optimizers, plan.apart):
                        accelerator.clip_grad_norm_(parameters, plan.clip)
                for optimizer in ready:
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                _update(average, module, plan.average, step)
                if after_step:
                    after_step(step)
                if step % plan.log_every == 0 or step == plan.steps - 1:
                    values = {k: float(v.detach()) for k, v in terms.items()}
                    if not all(math.isfinite(v) for v in values.values()):
                        raise diverged(step, f"the loss is not finite ({values})")
                    log.write(step, values)
                    advance(step + 1, values)
                if time.monotonic() - saved > plan.save_seconds:
                    save(step + 1)
                    saved = time.monotonic()
        if start < plan.steps:
            save(plan.steps)
        module.load_state_dict(average, strict=False)
        return module.train(module_was_training)


def _clipped(module: nn.Module, optimizers: Sequence[Optimizer], apart: bool) -> list[list[nn.Parameter]]:
    """The sets of parameters whose gradients share a norm limit."""
    if not apart:
        return [list(module.parameters())]
    return [list(group["params"]) for optimizer in optimizers for group in optimizer.param_groups]


@torch.no_grad()
def _share_gradients(module: nn.Module, accelerator: Accelerator) -> None:
    """The mean over the processes, in one message. A process's batch may have left out parameters that another's used,
    and loss terms use some outside the forward pass: both are more than DistributedDataParallel takes."""
    if accelerator.num_processes == 1:
        return
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    used = grads[0].new_tensor([p.grad is not None for p in trained])
    shared = accelerator.reduce(torch.cat([*(grad.flatten() for grad in grads), used]), "mean")
    *parts, shares = shared.split([*(grad.numel() for grad in grads), len(trained)])
    for parameter, part, share in zip(trained, parts, shares.tolist(), strict=True):
        # what nobody used stands still, as in one process: with a gradient of zero momentum would move it on
        parameter.grad = part.view_as(parameter) if share else None


@torch.no_grad()
def _update(average: dict[str, Tensor], module: nn.Module, decay: float, step: int) -> None:
    if not average:
        return
    current = module.state_dict()
    weight = 1 - min(decay, (1 + step) / (10 + step))
    for name, slot in average.items():
        if slot.dtype.is_floating_point:
            slot.lerp_(current[name], weight)
        else:
            slot.copy_(current[name])


class _Log:
    """A CSV of loss terms, or none where path is None. After a kill, rows beyond the checkpoint are dropped, so that no
    step stands twice."""

    def __init__(self, path: Path | None, start: int) -> None:
        self.path, self.start, self.began = path, start, time.monotonic()

    def __enter__(self) -> _Log:
        kept: list[list[str]] = []
        if self.path is not None and self.path.exists() and self.start:
            with open(self.path, newline="") as handle:
                head, *rows = list(csv.reader(handle)) or [[]]
            kept = [row for row in rows if len(row) == len(head) and row[0].isdigit() and int(row[0]) < self.start]
            kept = [head, *kept] if head else []
        if self.path is not None:
            text = io.StringIO(newline="")
            csv.writer(text).writerows(kept)
            write_atomic(self.path, text.getvalue())
        self.handle: Any = open(self.path or os.devnull, "a", newline="")  # noqa: SIM115
        self.writer = csv.writer(self.handle)
        self.headed = bool(kept)
        return self

    def write(self, step: int, values: dict[str, float]) -> None:
        if not self.headed:
            self.writer.writerow(["step", "seconds", *values])
            self.headed = True
        self.writer.writerow([step, f"{time.monotonic() - self.began:.1f}", *(f"{v:.6g}" for v in values.values())])
        self.handle.flush()

    def __exit__(self, *_: object) -> None:
        self.handle.close()


class _progress:  # noqa: N801
    def __init__(self, name: str, start: int, total: int, accelerator: Accelerator) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, TextColumn("{task.fields[terms]}"), disable=not accelerator.is_main_process)
        self.task = self.bar.add_task(name, total=total, completed=start, terms="")

    def __enter__(self) -> Callable[[int, dict[str, float]], None]:
        self.bar.start()
        return lambda done, values: self.bar.update(
            self.task, completed=done, terms=" ".join(f"{k} {v:.4g}" for k, v in values.items() if "/" not in k)
        )

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


def optimizer_tensors(optimizer: Optimizer, prefix: str) -> dict[str, Tensor]:
    """The optimizer's state as flat tensors."""
    state = optimizer.state_dict()["state"]
    return {f"{prefix}.{index}.{name}": value for index, slots in state.items() for name, value in slots.items()}


def restore_optimizer(optimizer: Optimizer, prefix: str, tensors: Mapping[str, Tensor]) -> None:
    """The reverse of `optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(prefix + "."):
            index, name = key.removeprefix(prefix + ".").split(".", 1)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
