import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import diffusers
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from harness import checkpoints, config, plan
from harness.config import MethodSpec, settings_of
from harness.errors import UserError
from harness.fitting import fit
from harness.fitting.data import data_for
from harness.fitting.objective import Objective
from harness.fitting.options import FitOptions
from harness.fitting.request import missing
from harness.models import Model, load
from harness.training.loop import TrainingPlan, generator, train
from harness.zoo.shapes import networks
from harness.zoo.shapes.data import SceneData

SCRIPT = """
import sys, time, torch
from pathlib import Path
from accelerate import Accelerator
from torch import nn
from harness.training.loop import TrainingPlan, train

torch.manual_seed(0)
module = nn.Linear(4, 1)

def loss(m, step, g):
    time.sleep(float(sys.argv[2]))
    x = torch.randn(8, 4, generator=g)
    return {"loss": (m(x) - x.sum(1, keepdim=True)).square().mean()}

plan = TrainingPlan(steps=60, warmup=5, average=0.9, save_seconds=0.0, log_every=1)
out = train("toy", module, loss, [torch.optim.AdamW(module.parameters(), lr=0.1)], plan, Path(sys.argv[1]),
            accelerator=Accelerator(cpu=True))
print(out.weight.tolist(), out.bias.tolist())
"""


def _run(folder: Path, pause: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), str(pause)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_training_resumes_from_a_kill_as_if_nothing_had_been(tmp_path: Path) -> None:
    whole = _run(tmp_path / "whole", 0.0)
    killed = _run(tmp_path / "killed", 0.05)
    log = tmp_path / "killed" / "toy.csv"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and len(log.read_text().splitlines()) > 10):
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    again = _run(tmp_path / "killed", 0.0)
    results = [process.communicate()[0].splitlines()[-1] for process in (whole, again)]
    assert results[0] == results[1]
    steps = [int(line.split(",")[0]) for line in log.read_text().splitlines()[1:]]
    assert steps == list(range(60))  # no step twice, none lost


def test_two_processes_train_in_step(tmp_path: Path) -> None:
    script = tmp_path / "toy.py"
    script.write_text(SCRIPT)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), str(tmp_path), "0"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    weights = re.findall(r"\[\[.*?\]\] \[.*?\]", done.stdout)  # the other's progress may share a line
    assert len(weights) == 2 and weights[0] == weights[1]
    alone, _ = _run(tmp_path / "alone", 0.0).communicate()
    assert alone.splitlines()[-1] != weights[0]  # each process had samples of its own
    assert len((tmp_path / "toy.csv").read_text().splitlines()) == 61


def test_a_fit_killed_in_each_of_two_stages_ends_with_the_same_weights(tiny_folder: Path, tmp_path: Path) -> None:
    values = {"steps": 120, "stage": 0.2, "batch": 2, "scenes": 64, "lora_rank": 2, "save_seconds": 0, "regions": 2}
    options = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
    command = [
        sys.executable,
        "-m",
        "harness",
        "fit",
        "diffcr",
        "--model",
        str(tiny_folder),
        "--ratio",
        "0.4",
        *options,
    ]

    def start(name: str) -> subprocess.Popen[bytes]:
        (tmp_path / name).mkdir(exist_ok=True)
        # one thread each: two fits whose threads wait for each other are many times slower
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
        return subprocess.Popen(command, cwd=tmp_path / name, **quiet)  # type: ignore[call-overload,no-any-return]

    def rows() -> int:
        logs = (tmp_path / "killed").rglob("results/runs/fits/*/*.csv")
        return sum(max(0, len(log.read_text().splitlines()) - 1) for log in logs)

    whole, wait = start("whole"), random.Random(0)
    for stage in range(2):
        process, after = start("killed"), 13 * stage + wait.randint(1, 10)  # of 13 logged rows in each
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and process.poll() is None and rows() < after:
            time.sleep(0.002)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert start("killed").wait() == 0 and whole.wait() == 0
    folders = [tmp_path / name / "adapters" for name in ("whole", "killed")]
    names, again = ({path.name for path in folder.iterdir()} for folder in folders)
    assert len(names) >= 4 and names == again  # one per stage and by-products, labelled by the ratio they reached
    for name in names:
        results = [checkpoints.load(folder / name) for folder in folders]
        assert results[0][1] == results[1][1]
        assert all(torch.equal(results[0][0][key], tensor) for key, tensor in results[1][0].items())


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(checkpoints.CheckpointError, match="bad.safetensors is damaged"):
        checkpoints.load(path)


def test_checkpoints_round_trip(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3), "b": torch.arange(4).view(2, 2).T}
    checkpoints.save(tmp_path / "x.safetensors", tensors, {"step": 3, "list": [0.5]})
    loaded, facts = checkpoints.load(tmp_path / "x.safetensors")
    assert facts == {"step": 3, "list": [0.5]}
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path: Path) -> None:
    module = nn.Linear(1, 1)
    with pytest.raises(UserError, match=r"stopped at step 0: the loss is not finite .* no checkpoint"):
        train(
            "nan", module, lambda m, _s, _g: {"loss": m.weight.sum() * float("nan")},
            [torch.optim.SGD(module.parameters(), lr=0.1)], TrainingPlan(steps=3), tmp_path,
            accelerator=Accelerator(cpu=True),
        )  # fmt: skip


def test_flow_objective_by_hand() -> None:
    objective = Objective(networks.scheduler(), 4)
    clean, noise = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), -1.0)
    x, target = objective.noised(clean, torch.tensor([250.0]), noise)
    assert x.item() == pytest.approx(0.75 * 2 - 0.25) and target.item() == -3.0


@pytest.mark.parametrize("regions", [1, 3, 4, 20])
def test_a_batch_draws_its_timesteps_from_one_region(regions: int) -> None:
    objective = Objective(networks.scheduler(), 20)
    steps = []
    for draw in range(400):
        timesteps, index = objective.draw(8, regions, generator(0, draw))
        nearest = (timesteps[:, None] - objective.timesteps).abs().argmin(1)
        assert set((nearest * regions // 20).tolist()) == {index * regions // 20}
        steps += nearest.tolist()
    counts = torch.bincount(torch.tensor(steps), minlength=20)
    assert counts.min() > 60  # every sampling step equally often: 160 on average, 8 at a time


@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
def test_a_sampler_of_the_second_order_is_fitted_down_to_its_last_step(name: str) -> None:
    """It names all timesteps but the first twice."""
    objective = Objective(getattr(diffusers, name)(), 20)
    assert len(objective.timesteps) == 20 and objective.timesteps[-1] < 100
    drawn = torch.cat([objective.draw(8, 4, generator(0, draw))[0] for draw in range(100)])
    assert drawn.min() < 60 and drawn.max() > 940


def test_a_sampler_with_other_timesteps_than_steps_is_not_fitted() -> None:
    with pytest.raises(UserError, match="fits do not know KDPM2DiscreteScheduler, which takes 39 timesteps for 20 ste"):
        Objective(diffusers.KDPM2DiscreteScheduler(), 20)


def test_one_sampling_step_draws_all_timesteps_around_it() -> None:
    objective = Objective(networks.scheduler(), 1)
    timesteps, index = objective.draw(100, 1, generator(0, 0))
    assert index == 0 and timesteps.isfinite().all() and (timesteps >= 0).all() and (timesteps < 1000).all()


def _fit(
    model: Model, method: str, out: Path, options: dict[str, object], own: dict[str, object], **settings: object
) -> list[Path]:
    objects = settings_of(MethodSpec(name=method, settings=dict(settings)), (0.1, 0.3))
    objects = list({o.adapter(): o for o in objects}.values())
    chosen = FitOptions.model_validate({"steps": 24, "batch": 2, "scenes": 64, "lora_rank": 2, **options})
    own_options = objects[0].FitSettings.model_validate(own)
    data = SceneData(model, 64)
    return fit.fit(objects, model, chosen, data, out, out / "work", own=own_options, accelerator=Accelerator(cpu=True))


def test_fit_of_diffcr_reaches_its_targets_and_regions_differ(model: Model, tmp_path: Path) -> None:
    options = {"steps": 60, "lr": 2e-3}
    paths = _fit(model, "diffcr", tmp_path, options, {"regions": 2, "ratio_lr": 20.0, "coefficient": 3.0})
    assert [p.stem for p in paths] == ["diffcr-lt-10", "diffcr-lt-30"]
    means = []
    for path in paths:
        tensors, facts = checkpoints.load(path)
        learned = torch.tensor(facts["learned"])
        assert learned.shape == (3, 2) and tensors["ratios"].shape == (3, 2)
        assert facts["model_digest"] == model.digest
        means.append(learned.mean().item())
    assert means == [pytest.approx(0.1, abs=0.04), pytest.approx(0.3, abs=0.06)]
    assert not torch.allclose(learned[:, 0], learned[:, 1], atol=1e-4)


def test_fitted_adapters_run_and_belong_to_their_model(tiny_folder: Path, tmp_path: Path) -> None:
    _fit(load(str(tiny_folder)), "uniform", tmp_path / "adapters", {"steps": 4}, {})
    again = load(str(tiny_folder), adapters=(tmp_path / "adapters",))
    state = again.adapter("uniform-30")
    assert state.tensors["router"].shape == (3, 32) and len(again.adapter_digest("uniform-30")) == 64
    assert any(name.startswith("lora.") for name in state.tensors)
    values = {"methods": "uniform@trajectory", "model": str(tiny_folder), "cases": 2, "ratios": [0.5]}
    (made,) = plan.make(config.build({**values, "adapters": [tmp_path / "adapters"]}))
    assert [point.ratio for point in made.points] == [None, 0.1, 0.3]
    noisier = [{"name": "uniform@trajectory", "temperature": 2.0}]  # a setting that no fit knows of
    (made,) = plan.make(config.build({**values, "methods": noisier, "adapters": [tmp_path / "adapters"]}))
    assert [point.ratio for point in made.points] == [None, 0.1, 0.3]
    with pytest.raises(UserError, match=r"'uniform' has no fitted adapters .*python -m harness fit uniform"):
        plan.make(config.build(values))
    with pytest.raises(UserError, match=r"did you mean 'uniform@trajectory'"):
        plan.make(config.build({**values, "methods": "uniform@trajektory"}))
    again.digest = "another"
    for read in (again.adapter, load(str(tiny_folder), adapters=again.adapters, digest="another").adapter_digest):
        with pytest.raises(UserError, match="fitted on another model"):
            read("uniform-30")
    with pytest.raises(UserError, match="no adapter 'uniform-77'; fitted ones: uniform-10, uniform-30"):
        again.adapter("uniform-77")


def test_static_is_calibrated_without_training(model: Model, tmp_path: Path) -> None:
    before = {k: v.clone() for k, v in model.backbone.transformer.state_dict().items()}
    (path,) = _fit(model, "static", tmp_path, {}, {})
    tensors, facts = checkpoints.load(path)
    assert path.stem == "static" and tensors["importance"].shape == (3, 16, 16) and (tensors["importance"] > 0).all()
    assert facts["samples"] > 0
    after = model.backbone.transformer.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before)


def test_training_free_methods_say_so(model: Model) -> None:
    (method,) = settings_of(MethodSpec(name="tome", settings={"ratio": 0.2}), ())
    with pytest.raises(UserError, match="'tome' needs no fit"):
        method.fitting(model.backbone, 4)


def test_what_a_sweep_lacks_is_one_fit_per_adapter(tiny_folder: Path, tmp_path: Path) -> None:
    _fit(load(str(tiny_folder)), "uniform", tmp_path, {"steps": 4}, {})
    methods = ["tome", "uniform", "static", {"name": "diffcr", "seed": 1}, {"name": "diffcr", "ratios": [0.15]}]
    sweep = config.build(
        {"methods": methods, "model": str(tiny_folder), "ratios": [0, 0.1, 0.3], "adapters": [tmp_path]}
    )
    found = missing(sweep, plan.load_model(sweep))
    assert [(r.method, r.ratios, [m.adapter() for m in r.methods]) for r in found] == [
        ("static", (0.3,), ["static"]),
        ("diffcr", (0.1,), ["diffcr-lt-10-s1"]), ("diffcr", (0.3,), ["diffcr-lt-30-s1"]),
        ("diffcr", (0.15,), ["diffcr-lt-15"]),
    ]  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has one")
def test_a_fit_asked_for_cuda_never_falls_back_to_the_cpu(tiny_folder: Path, tmp_path: Path) -> None:
    sweep = config.build({"methods": "static", "model": str(tiny_folder), "ratios": [0.1], "adapters": [tmp_path]})
    (request,) = missing(sweep, plan.load_model(sweep))
    with pytest.raises(UserError, match="no CUDA device"):
        request.run(str(tiny_folder), tmp_path, device="cuda")
    assert not list(tmp_path.iterdir())


def test_a_lazy_model_is_fitted_on_masked_tokens(lazy_folder: Path, tmp_path: Path) -> None:
    found = load(str(lazy_folder))
    data = data_for(found, FitOptions.model_validate({"scenes": 64}), trains=True, folder=None, work=tmp_path)
    batch = data.batch(4, generator(0, 0))
    index, context = batch.inputs["index"], batch.inputs["context"]
    assert batch.clean.shape == (4, index.shape[1], 6) and context.shape == (4, index.shape[1], 32)
    (method,) = settings_of(MethodSpec(name="diffcr", settings={"ratio": 0.3}), ())
    options = FitOptions.model_validate({"steps": 30, "batch": 2, "scenes": 64, "lora_rank": 2, "lr": 2e-3})
    own = method.FitSettings.model_validate({"regions": 2, "ratio_lr": 20.0, "coefficient": 3.0})
    accelerator = Accelerator(cpu=True)
    out = tmp_path / "adapters"
    fit.fit([method], found, options, data, out, tmp_path / "work", own=own, accelerator=accelerator)
    state = load(str(lazy_folder), adapters=(out,)).adapter(next(out.glob("*.safetensors")).stem)
    assert state.tensors["ratios"].shape == (3, 2) and any(name.startswith("lora.") for name in state.tensors)
    with pytest.raises(UserError, match=r"own scenes and masks; give no --data"):
        data_for(found, options, trains=True, folder=tmp_path, work=tmp_path)


def _one_step(folder: Path, *, apart: bool) -> tuple[float, float]:
    """How far two weights move in a step of plain descent, whose gradients are 0.3 and 400."""
    module = nn.ParameterDict({"small": nn.Parameter(torch.zeros(1)), "large": nn.Parameter(torch.zeros(1))})
    groups = [{"params": [module["small"]], "lr": 1.0}, {"params": [module["large"]], "lr": 1.0}]
    train(
        "clip", module, lambda m, _s, _g: {"loss": (0.3 * m["small"] + 400 * m["large"]).sum()},  # type: ignore[index]
        [torch.optim.SGD(groups, lr=1.0)], TrainingPlan(steps=1, warmup=0, decay=0.0, clip=1.0, apart=apart), folder,
        accelerator=Accelerator(cpu=True),
    )  # fmt: skip
    return module["small"].item(), module["large"].item()


def test_groups_that_are_clipped_apart_do_not_shorten_each_other(tmp_path: Path) -> None:
    small, large = _one_step(tmp_path / "apart", apart=True)
    assert small == pytest.approx(-0.3, rel=1e-4) and large == pytest.approx(-1.0, rel=1e-4)
    small, large = _one_step(tmp_path / "together", apart=False)
    assert small == pytest.approx(-0.3 / 400, rel=1e-2) and large == pytest.approx(-1.0, rel=1e-2)
