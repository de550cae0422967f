"""Comparison at equal cost: each method's one strength setting, tuned until the method meets a budget.

The cost is measured on calibration cases, which the evaluation never sees, relative to dense. A setting that grows
makes its method cheaper, so the search is a bisection, guided by the costs that it has met; of latencies, which are
noisy, the cost of what is found comes from rounds of their own. A method with an adapter
per ratio can only take the ratios that it is fitted for.

What was found is kept in the run folder with a digest of all that it rests on, and searched again where that differs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness import cost, plan, search, timing, versions
from harness.compose import method_class
from harness.errors import UserError, failure_reason
from harness.ladders import FITTED, at, fixed, is_reference, ladders
from harness.matches import NEAR, TOLERANCE, Match, question, read
from harness.method import Method
from harness.models import Model, adapters
from harness.process_state import ProcessState
from harness.sweep import DENSE, MethodSpec, Mode, Sweep
from harness.workload import Workload, digest
from results.analysis.modes import EAGER, RATIO, named
from results.analysis.statistics import paired_ratio
from results.at_work import others
from results.files import write_atomic
from results.outputs import MATCHES
from results.run_folder import STORE

_TIMED_TRIES = 12
"""Of a search by latency, whose costs are noisy; one by GMACs goes on until no rung is left between the two nearest."""
_CASES = 16
_ROUNDS = 6
_FRESH_ROUNDS = 12
"""Of the setting found: the reading that chose it is the luckiest of several."""
_CHOICES = 3
"""Settings of a budget that are measured anew at most."""


def resolved(
    sweep: Sweep, folder: Path, model: Model, say: Callable[[str], None] = lambda _line: None
) -> tuple[Sweep, list[Match]]:
    """The sweep with every method at the settings that meet its budgets. What was found lies in `folder`, and is not
    searched again unless something that it rests on has changed. Raises UserError for a sweep that cannot be
    matched."""
    kept = folder / MATCHES
    known, left_over = read(kept) if kept.exists() else [], set[str]()
    # Where no record stands and nobody works, what others sought here is nobody's.
    if not (folder / STORE).is_file() and not others(folder):
        here = {question(one.name, fixed(one), sweep.match or "", x) for one in sweep.methods for x in sweep.budgets}
        left_over = {one.question for one in known} - here
        known = [one for one in known if one.question in here]

    def keep(found: Sequence[Match]) -> None:
        again = {asked for one in found for asked in (one.asked, replace(one, task_settings={}).asked)}
        stands = {one.asked: one for one in (*known, *(read(kept) if kept.exists() else ()))}  # others may search here
        others = [one for one in stands.values() if one.asked not in again and one.question not in left_over]
        write_atomic(kept, json.dumps([asdict(one) | {"met": one.met} for one in (*others, *found)], indent=1))

    matches = _search(sweep, model, known, keep, say)
    specs = [MethodSpec(name=one.method, settings=one.chosen) for one in matches if one.strength is not None]
    if not specs:
        told = "; ".join(str(one) for one in matches) or "there is none beside dense; name some with --methods"
        raise UserError(f"no method meets a budget: {told}")
    specs = [spec for spec in sweep.methods if is_reference(spec) and spec.name != DENSE] + specs
    unique = tuple({json.dumps(spec.model_dump()): spec for spec in specs}.values())
    return sweep.model_copy(update={"methods": unique}), matches


def _search(
    sweep: Sweep,
    model: Model,
    known: Sequence[Match],
    keep: Callable[[Sequence[Match]], None],
    say: Callable[[str], None],
) -> list[Match]:
    """Every method's matches. keep: called with those found so far after each method that was searched."""
    at_hand = {(one.question, one.rests_on): one for one in known if not one.reason}
    climbs = ladders(sweep, model)
    on, workload = _calibration(sweep, model)
    setting = _setting(workload, on, sweep.match or "")
    dense_gmacs: float | None = None
    dense = method_class(DENSE)()
    found: list[Match] = []
    searched = False
    for spec, ladder in climbs:
        settings, rests_on = fixed(spec), digest([setting, _own(spec, ladder, model)])
        asked = [question(spec.name, settings, sweep.match or "", budget) for budget in sweep.budgets]
        old = [at_hand.get((one, rests_on)) for one in asked]
        if all(old):
            found += [one for one in old if one is not None]
            continue
        if not searched:
            searched = True
            dense_gmacs = cost.counted(on, dense, None).gmacs if sweep.match == "gmacs" else None

        def measure(method: Method, rounds: int, gmacs: float | None = dense_gmacs) -> float:
            return relative_cost(on, method, dense, gmacs, sweep.matched_in, rounds)

        costs: dict[float, float] = {}  # a method's budgets share what was measured
        for budget, there in zip(sweep.budgets, old, strict=True):
            if there is not None:
                found.append(there)
                continue
            process = ProcessState.now()
            model.remember()  # anew where an earlier search has left something behind
            try:
                match = _match(spec, sweep.match or "", budget, ladder, costs, measure)
            except Exception as error:  # this method's affair, for which the others are not to suffer
                own = set[str]().union(*(one.files() for one in at(spec, ladder[-1]).members()))
                reason = str(error) if isinstance(error, UserError) else failure_reason(error, own)
                match = _left_out(spec, sweep.match or "", budget, reason)
            match = replace(match, rests_on=rests_on, task_settings=dict(workload.task_settings))
            process.restore()
            model.left_behind()  # its point will say so; the other methods are not to suffer
            say(str(match))
            found.append(match)
        keep(found)
    return found


def _left_out(spec: MethodSpec, axis: str, budget: float, reason: str) -> Match:
    return Match(
        method=spec.name, settings=fixed(spec), chosen={}, axis=axis, budget=budget,
        setting=method_class(spec.name).strength, strength=None, cost=None, tried=0, reason=reason,
    )  # fmt: skip


def _calibration(sweep: Sweep, model: Model) -> tuple[cost.Subject, Workload]:
    """The model and task on calibration cases, and the workload of the evaluation. Raises UserError where the task has
    several settings."""
    plans = plan.make(sweep.model_copy(update={"methods": (MethodSpec(name=DENSE),)}), model)
    if len(plans) > 1:
        raise UserError(
            "budgets are matched for one setting of the task at a time; choose one, for instance with "
            "--task-set strategy=lazy --mask-area 0.25"
        )
    opened = plans[0].opened
    cases = opened.task.calibration(_CASES, sweep.cases, sweep.prompts, sweep.data)
    return cost.Subject(model, opened.task, cases), opened.workload


def _setting(workload: Workload, on: cost.Subject, axis: str) -> dict[str, Any]:
    """What the costs of all methods rest on. Products are counted alike on every machine of a kind, by any number of
    threads; seconds are not."""
    no_part = {"cases", "split", "batch"}  # of the evaluation
    made_by = {"rounds"} | ({"hardware", "threads"} if axis == "gmacs" else set())
    return {
        "weights": workload.weights,
        "task": workload.task_settings,
        "compares": {name: value for name, value in workload.compares.items() if name not in no_part},
        "made": {name: value for name, value in workload.depends_on.items() if name not in made_by},
        "cases": [(case.prompt, case.seed, case.digest) for case in on.cases],
        "search": [
            TOLERANCE,
            NEAR,
            search.GUIDED,
            _TIMED_TRIES,
            _ROUNDS,
            *(() if axis == "gmacs" else (_FRESH_ROUNDS, _CHOICES)),
        ],
    }


def _own(spec: MethodSpec, ladder: Sequence[float | int], model: Model) -> dict[str, Any]:
    """What a method's costs rest on beside that: its source, the values that it may take, and what was fitted for them.
    Raises UserError for a missing adapter."""
    ends = (ladder[min(1, len(ladder) - 1)], ladder[-1])  # one adapter serves all values of a long ladder
    methods = [at(spec, value) for value in (ladder if len(ladder) <= FITTED else ends)]
    return {
        "source": [versions.of_source(type(one)) for one in methods[-1].members()],
        "ladder": list(ladder),
        "adapters": [adapters.digest_of(method, model) for method in methods],
    }


def _match(
    spec: MethodSpec,
    axis: str,
    budget: float,
    ladder: Sequence[float | int],
    costs: dict[float, float],
    measure: Callable[[Method, int], float],
) -> Match:
    """What the search for one budget found. costs: by strength; takes in what is measured. measure: with how many
    rounds of pairs. What a noisy reading brought near to the budget is measured anew, and where it was luck the search
    goes on from what is known then."""
    tried = len(costs)
    exact = axis == "gmacs"
    fresh: set[float | int] = set()
    refused: dict[float, UserError] = {}
    for _ in range(1 if exact else _CHOICES):
        search.bisect(
            ladder,
            costs,
            budget,
            lambda value: measure(at(spec, value), _ROUNDS),
            tries=None if exact else max(0, _TIMED_TRIES - (len(costs) - tried) - len(refused)),
            refused=refused,
        )
        best = _closest(costs, budget)
        if exact or best in fresh:
            break
        with suppress(UserError):  # a mode that fails once in a while
            costs[best] = measure(at(spec, best), _FRESH_ROUNDS)
        fresh.add(best)
    else:
        best = _closest({value: costs[value] for value in fresh}, budget)
    near = abs(costs[best] - budget) <= NEAR * budget
    return Match(
        spec.name, fixed(spec), at(spec, best).settings.model_dump(mode="json"), axis, budget,
        method_class(spec.name).strength, best if near else None, costs[best], len(costs) - tried,
    )  # fmt: skip


def _closest(costs: dict[float | int, float], budget: float) -> float | int:
    return min(costs, key=lambda value: abs(costs[value] - budget))


def relative_cost(
    on: cost.Subject, method: Method, dense: Method, dense_gmacs: float | None, mode: Mode, rounds: int
) -> float:
    """A method's cost over dense's on the typical case, of an adaptive method on all: GMACs where dense's are
    given, else the median ratio of interleaved latencies in a mode of execution. Raises UserError for a missing
    adapter, and for a method that cannot run in the mode."""
    state = adapters.state_of(method, on.model)
    on = cost.looked_at(on, method, state)
    if dense_gmacs is not None:
        return (float(on.counts.mean()) if on.spent else cost.counted(on, method, state).gmacs) / dense_gmacs
    if mode != EAGER:
        figures, _samples, lost = timing.in_modes((mode,), on, method, state, dense, rounds, lambda *_: None)
        if lost:
            raise UserError(f"{method.name!r} cannot be tuned in {lost[0]}; leave it out")
        return figures[named(RATIO, mode)].value
    with cost.pairs(on, method, state, dense, rounds) as clock:
        clock.rest()
    dense_s, own_s = clock.seconds
    return paired_ratio(np.array(own_s), np.array(dense_s)).value
