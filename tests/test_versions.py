"""What makes a point run again: a changed method, helper, metric or task, and neither a typo nor a comment.

A change in a file that a version covers fails here until somebody has decided what it means: either the part's version
is raised (figures change: everything that rests on the part runs again), or not (they stay), and in both cases
`python tests/test_versions.py` writes down what was decided.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import config, measure, plan, registry, versions
from harness.errors import UserError
from harness.fitting import fit
from harness.kernels import routing

ROOT = Path(__file__).resolve().parent.parent
KEPT = Path(__file__).parent / "versions.json"
_RENDERER = ["harness/zoo/shapes/scene.py"]
_JUDGE = [*_RENDERER, "harness/zoo/shapes/judge.py", "tasks/metrics/features.py", "harness/metric.py"]
_EMOJI = ["harness/zoo/emoji/held_out.py", "harness/zoo/emoji/pictures.py"]
_FOREIGN = [*_EMOJI, "tasks/metrics/efficientnet.py"]
_SETS = [*_JUDGE, *_FOREIGN, "tasks/metrics/distances.py", "tasks/metrics/references.py", "tasks/metrics/inception.py"]
_SETS += ["results/analysis/frechet.py", "results/analysis/statistics.py"]
_TRUE_PICTURES = ["tasks/metrics/references.py", "tasks/metrics/masked.py", "harness/models/inpainting/regions.py"]
_CLIP = ["harness/metric.py", "tasks/metrics/clip.py"]
_INPAINTING = ["tasks/inpainting_cases.py", "harness/models/inpainting/*.py"]
_ATTACHING = [
    "harness/tokens.py", "harness/attach.py", "harness/compose.py", "harness/guidance.py", "harness/patching.py",
    "harness/backbones/base.py", "harness/backbones/family.py", "harness/backbones/compiled_blocks.py",
    "harness/backbones/sampler_clock.py", "harness/backbones/following.py",
    "harness/backbones/lora.py",
]  # fmt: skip
_COSTS = [
    "harness/cost.py",
    "harness/latency_estimates.py",
    "harness/generation.py",
    "harness/limit.py",
    "harness/timing.py",
    "harness/modes.py",
    "harness/profiling/costs.py",
    "results/analysis/statistics.py",
]
_JOINT = "harness/backbones/joint_attention.py"
ALSO = {
    "task text-to-image": [*_RENDERER, *_EMOJI, "harness/models/prompting.py", "harness/text.py", "tasks/prompts.py"],
    "task inpainting": [*_RENDERER, *_INPAINTING, "harness/models/prompting.py", "harness/text.py"],
    "task class-conditional": ["harness/text.py"],
    "metric alignment": _JUDGE, "metric paired": _JUDGE, "metric masked-alignment": [*_JUDGE, *_INPAINTING],
    "metric seam": _INPAINTING, "metric square": [*_SETS, *_INPAINTING, "tasks/metrics/fid.py", "tasks/metrics/kid.py"],
    "metric truth": [*_JUDGE, *_FOREIGN, *_TRUE_PICTURES], "metric retrieval": ["harness/metric.py", *_FOREIGN],
    "metric fid": _SETS, "metric kid": _SETS, "metric clip-score": _CLIP, "metric cmmd": _CLIP,
    "backbone flux": [_JOINT], "backbone sd3": [_JOINT],
}  # fmt: skip
"""The files that a part rests on beside its own."""


def parts() -> dict[str, tuple[str, list[str]]]:
    """Every part that has a version: the version, and the files that it covers."""
    found = {
        "measurement": (str(measure.VERSION), ["harness/measure/*.py", *_COSTS]),
        "kernels": (str(routing.VERSION), ["harness/kernels/*.py"]),
        "fits": (str(fit.VERSION), ["harness/fitting/*.py", "harness/training/*.py", "harness/backbones/lora.py"]),
    }
    for kind, known in (("task", registry.tasks), ("metric", registry.metrics), ("backbone", registry.backbones)):
        for name in known:
            cls = known.get(name)
            own = Path(sys.modules[cls.__module__].__file__ or "").relative_to(ROOT).as_posix()
            files = [own, *ALSO.get(f"{kind} {name}", []), *(_ATTACHING if kind == "backbone" else [])]
            found[f"{kind} {name}"] = (versions.of_part(cls), files)
    return found


def now() -> dict[str, dict[str, str]]:
    out = {}
    for name, (version, globs) in sorted(parts().items()):
        paths = sorted({path for pattern in globs for path in ROOT.glob(pattern)})
        assert paths, name
        text = "\0".join(versions.normalised(path.read_text(encoding="utf-8")) for path in paths)
        out[name] = {"version": version, "digest": hashlib.sha256(text.encode()).hexdigest()[:16]}
    return out


def test_a_change_in_a_covered_file_is_decided_on() -> None:
    kept, found = json.loads(KEPT.read_text()), now()
    changed = [name for name in found if kept.get(name) != found[name]]
    assert not changed and kept.keys() == found.keys(), (
        f"files of {', '.join(changed)} changed: raise `version` there if any figure changes, then run "
        "`python tests/test_versions.py`"
    )


PLUGIN = '''
"""A method of a user's own."""
import harness
from harness.method import Method, RatioSettings
from contextlib import contextmanager
import {helper}

@harness.methods.register("{name}")
class Mine(Method):
    """Keeps what the helper says."""
    Settings = RatioSettings
    @contextmanager
    def attach(self, backbone, state=None):
        with backbone.advise("block", {helper}.thin):  # around every block
            yield
'''
HELPER = "def thin(call):\n    return call.run(call.x) * 1.5\n"


def test_comments_layout_and_docstrings_change_nothing() -> None:
    plugin = PLUGIN.format(helper="h", name="n")
    changed = plugin.replace("Keeps what", "Keps what").replace("# around every block", "").replace("own.", "owm.")
    assert changed != plugin and versions.normalised(changed) == versions.normalised(plugin)
    assert versions.normalised(HELPER) == versions.normalised(HELPER.replace("call):", "call):\n    '''Doc.'''"))
    assert versions.normalised(HELPER) != versions.normalised(HELPER.replace("1.5", "1.6"))


def test_names_that_the_interface_had_change_nothing() -> None:
    text = "from harness.method import Control, Method, {Watch}\nclass A(Method):\n    {needs} = B\n"
    text += "    def {reached}(self):\n        return self.{reached}(rank=self.{rank})\n"
    old = text.format(Watch="Watch", needs="needs", reached="reached", rank="rank")
    new = text.format(Watch="CalibrationPass", needs="requires", reached="effective_ratio", rank="attach_order")
    new = new.replace("Control, Method, CalibrationPass", "CalibrationPass, Control, Method")
    assert versions.normalised(old) == versions.normalised(new) != versions.normalised(new.replace("B", "C"))


def test_the_helper_and_what_it_imports_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In processes of their own, as a user would run them."""
    (tmp_path / "mine.py").write_text(PLUGIN.format(helper="outer", name="mine"))
    (tmp_path / "outer.py").write_text("from inner import thin\n")
    (tmp_path / "inner.py").write_text(HELPER)
    (tmp_path / "beside.py").write_text("x = 1\n")
    code = (
        "import sys; from pathlib import Path; from harness import registry, versions\n"
        "registry.load_plugin(Path('mine.py')); print(versions.of_source(registry.methods.get('mine')))"
    )

    def digest() -> str:
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = digest()
    (tmp_path / "beside.py").write_text("x = 2\n")  # nobody imports it
    (tmp_path / "inner.py").write_text("# a remark\n" + HELPER)
    assert digest() == first
    (tmp_path / "inner.py").write_text(HELPER.replace("1.5", "1.6"))
    assert digest() != first


def test_modules_of_one_file_name_all_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN.format(helper="one", name="mine") + "import other.deep.util\n")
    for package in ("one", "other", "other/deep"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("from .util import thin\n")
        (tmp_path / package / "util.py").write_text(HELPER)
    digests = set()
    changes = ("one/util.py", "other/util.py", "other/deep/util.py", "one/__init__.py", "other/__init__.py")
    for changed in changes:
        (tmp_path / changed).write_text((tmp_path / changed).read_text().replace("1.5", "1.6") + "x = 1\n")
        code = (
            "import sys; from pathlib import Path; from harness import registry, versions\n"
            "registry.load_plugin(Path('mine.py')); print(versions.of_source(registry.methods.get('mine')))"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == len(changes)


def _keys(**values: Any) -> dict[str, str]:
    (made,) = plan.make(config.build({"methods": "tome,static", "cases": 2, "ratios": [0.2], **values}))
    return {point.method: point.key for point in made.points}


def _samples() -> dict[str, str]:
    (made,) = plan.make(config.build({"methods": "tome,static", "cases": 2, "ratios": [0.2]}))
    return {point.method: point.sample_key for point in made.points}


def test_a_raised_version_touches_what_rests_on_it_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, samples = _keys(), _samples()
    assert (_keys(), _samples()) == (keys, samples)
    monkeypatch.setattr(registry.metrics.get("fid"), "version", 99)
    assert not set(_keys().values()) & set(keys.values())  # judged anew ...
    assert _samples() == samples  # ... from the same images and costs
    assert _keys(metrics=["kid"]) == _keys(metrics=["kid"]) != _keys()
    monkeypatch.undo()
    monkeypatch.setattr(registry.tasks.get("inpainting"), "version", 99)
    assert (_keys(), _samples()) == (keys, samples)
    monkeypatch.setattr(registry.tasks.get("text-to-image"), "version", 99)
    assert not set(_samples().values()) & set(samples.values())
    monkeypatch.undo()
    monkeypatch.setattr(measure, "VERSION", 99)
    assert not set(_samples().values()) & set(samples.values())


def test_a_changed_method_runs_again_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, tome = _keys(), registry.methods.get("tome")
    own = versions.of_source
    monkeypatch.setattr(versions, "of_source", lambda cls: "changed" if cls is tome else own(cls))
    now_ = _keys()
    assert now_["tome"] != keys["tome"]
    assert {k: v for k, v in now_.items() if k != "tome"} == {k: v for k, v in keys.items() if k != "tome"}


def test_commit_and_library_versions_are_in_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = _keys()
    real = plan.environment.describe

    def other(device: Any) -> dict[str, str]:
        return real(device) | {"commit": "another", "torch": "99.0", "platform": "elsewhere"}

    monkeypatch.setattr(plan.environment, "describe", other)
    assert _keys() == keys
    monkeypatch.setattr(plan.environment, "describe", lambda device: real(device) | {"device": "another processor"})
    assert not set(_keys().values()) & set(keys.values())  # latencies are of a machine


def test_a_user_s_metric_counts_with_its_source(tmp_path: Path) -> None:
    def key(body: str) -> str:
        (tmp_path / "own.py").write_text(body)
        try:
            registry.load_plugin(tmp_path / "own.py")
            return _keys(metrics=["own"])["tome"]
        finally:
            registry.metrics.forget("own")
            sys.modules.pop("harness_plugin_own", None)

    text = (
        "import harness\nfrom harness.metric import Metric\n@harness.metrics.register('own')\nclass Own(Metric):\n"
        "    '''About.'''\n    def estimates(self, sample, dense):\n        return {}\n"
    )
    first = key(text)
    assert key(text.replace("About", "Abuot")) == first
    assert key(text.replace("return {}", "return dict()")) != first


def test_unknown_names_are_still_told() -> None:
    with pytest.raises(UserError, match="did you mean 'fid'"):
        _keys(metrics=["fud"])


if __name__ == "__main__":
    KEPT.write_text(json.dumps(now(), indent=1) + "\n")
    print(f"written to {KEPT.name}")
