"""`python -m harness check`: the contract of methods, and every way to break it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from harness import registry
from harness.cli import app
from harness.contract import check_method
from harness.contract.checks import CHECKS
from harness.errors import UserError
from harness.models import tiny

ROOT = Path(__file__).resolve().parent.parent
BROKEN = '''
import torch
import harness
from contextlib import contextmanager
from harness.method import Method, RatioSettings
from harness.tokens import run_on

IMAGES = []

def half(call):
    index = torch.arange(0, call.x.shape[1], 2).expand(len(call.x), -1)
    return run_on(index, call)

def make(name, advice, after=lambda backbone: None, always=False):
    class Broken(Method):
        """Breaks one promise."""
        Settings = RatioSettings
        @contextmanager
        def attach(self, backbone, state=None):
            if not self.ratio and not always:
                yield
                return
            with backbone.advise("block", advice):
                yield
            after(backbone)
    harness.methods.register(name)(Broken)

def forever(call):
    IMAGES.append(0)
    return half(call) * (1 + 0.01 * len(IMAGES))

def boom(call):
    raise RuntimeError("the block is on fire")

make("sound", half)
make("misshaped", lambda call: call.run(call.x)[:, ::2])
make("not-a-number", lambda call: half(call) * float("nan"))
make("idle", lambda call: call.run(call.x))
make("costly", lambda call: call.run(call.x) * 1.01)
make("never-dense", half, always=True)
make("leaves-a-hook", half, lambda backbone: backbone.transformer.register_forward_hook(lambda *_: None))
make("global-random", lambda call: half(call) + torch.rand(1))
make("counts-images", forever)
make("threads", half, lambda backbone: torch.set_grad_enabled(not torch.is_grad_enabled()))
make("raises", boom)
'''
BREAKS = {
    "sound": set(),
    "misshaped": set(CHECKS) - {"ratio 0 is dense"},
    "not-a-number": {"output shapes", "same case, same bits", "no state between images"},  # NaN is not equal to itself
    "idle": {"changes images, saves FLOPs"},
    "costly": {"changes images, saves FLOPs"},
    "never-dense": {"ratio 0 is dense"},
    "leaves-a-hook": {"exact removal"},
    "global-random": {"same case, same bits", "no state between images", "process untouched"},
    "counts-images": {"same case, same bits", "no state between images"},
    "threads": {"process untouched"},
    "raises": set(CHECKS) - {"ratio 0 is dense"},
}


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "broken.py"
    path.write_text(BROKEN)
    registry.load_plugin(path)
    yield path
    for name in BREAKS:
        registry.methods.forget(name)
    torch.set_grad_enabled(True)


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_found(name: str, broken: Path) -> None:
    found = check_method(name, families=["pixart"], pairs=False)
    assert {one.check for one in found.failed} == BREAKS[name], found.text()
    assert found.passed == (not BREAKS[name])
    if name == "raises":
        assert "RuntimeError: the block is on fire (broken.py, line" in found.text()


def test_every_family_has_a_tiny_model_that_is_always_the_same() -> None:
    assert tiny.names() == sorted(registry.backbones)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for name in tiny.names():
        first, again = tiny.build(name), tiny.build(name)
        assert torch.equal(first.generate(2, steps=2), again.generate(2, steps=2))
        assert not torch.equal(first.generate(steps=2), first.generate(seed=1, steps=2))
        assert all(first.generate(size=size, steps=1).isfinite().all() for size in first.sizes)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(UserError, match="did you mean 'pixart'"):
        tiny.build("pixrt")


def test_a_family_that_a_method_cannot_run_on_is_refused_with_the_reason() -> None:
    found = check_method("tgate", families=["dit"])
    assert {one.outcome for one in found.families} == {"refused"} and not found.pairs and not found.passed
    assert found.families[0].reason == "DiT has no separate cross_attention"


def test_a_method_that_makes_up_no_adapter_is_not_checked() -> None:
    found = check_method("l2c", families=["pixart"])
    assert {one.outcome for one in found.families} == {"not checked"} and not found.passed and not found.failed


def test_settings_are_those_that_are_given() -> None:
    found = check_method("tome", {"ratio": 0.5, "around": "mlp"}, families=["pixart"], pairs=False)
    assert found.passed, found.text()
    with pytest.raises(UserError, match="did you mean 'around'"):
        check_method("tome", {"aroun": "mlp"})


@pytest.mark.slow
def test_the_example_passes_in_a_process_of_its_own(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "harness",
        "check",
        str(ROOT / "examples" / "random_drop.py"),
        "--family",
        "pixart",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(check in done.stdout for check in CHECKS) and "composes with: " in done.stdout
    assert "composition refused: tome: both choose the tokens" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_failure_is_exit_code_1_and_says_what(broken: Path) -> None:
    done = CliRunner().invoke(app, ["check", str(broken), "--method", "idle", "--family", "pixart"])
    assert done.exit_code == 1
    assert "FAILED: changes images, saves FLOPs, pixart: it changed nothing" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["FILE"], "choose one with --method"),
        (["FILE", "--method", "soun"], "registers no method 'soun'; it registers sound, misshaped"),
        (["EMPTY"], "registers no method; put @harness.methods.register"),
        (["nowhere.py"], "does not exist"),
        (["toem"], "did you mean 'tome'"),
        (["tome", "--method", "tome"], "--method chooses one of a file's methods"),
        (["tome", "--family", "pixrt"], "did you mean 'pixart'"),
        (["tome", "--set", "around"], "--set expects NAME=VALUE"),
        (["tome", "--set", "ratio=2"], "ratio: "),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments: list[str], said: str, broken: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("x = 1\n")
    places = {"FILE": str(broken), "EMPTY": str(tmp_path / "empty.py")}
    done = CliRunner().invoke(app, ["check", *(places.get(one, one) for one in arguments)])
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ") and said in done.stderr and len(done.stderr.splitlines()) == 1
