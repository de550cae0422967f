from pathlib import Path

import pytest

from harness import config
from harness.config import build
from harness.errors import UserError
from harness.sweep import MethodSpec


def test_defaults_are_the_main_job() -> None:
    sweep = build({})
    assert [spec.name for spec in sweep.methods] == ["diffcr", "tome"]
    assert (sweep.model, sweep.task, sweep.ratios, sweep.cases) == ("shapes", "text-to-image", (0.1, 0.2, 0.3), 64)


def test_methods_as_text_list_and_mapping_say_the_same() -> None:
    text = build({"methods": "diffcr,tome"})
    listed = build({"methods": ["diffcr", {"name": "tome"}]})
    assert text == listed
    around = build({"methods": [{"name": "tome", "around": "mlp", "ratios": [0.5]}]})
    assert around.methods == (MethodSpec(name="tome", settings={"around": "mlp"}, ratios=(0.5,)),)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"ratios": [0.95]}, r"must lie in \[0, 0.9\], got 0.95"),
        ({"ratios": [-0.1]}, r"must lie in \[0, 0.9\]"),
        ({"cases": 0}, "cases: .*got 0"),
        ({"case": 3}, "did you mean 'cases'"),
    ],
)
def test_bad_values_are_one_line(values: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        build(values)
    assert "\n" not in str(caught.value)


def test_an_explicit_zero_is_kept() -> None:
    sweep = build({"guidance": 0, "ratios": [0]})
    assert sweep.guidance == 0 and sweep.ratios == (0.0,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("metods: [tome]", "did you mean 'methods'"),
        ("[1, 2]", "must hold keys and values"),
        ("a: [", "is not YAML"),
    ],
)
def test_bad_yaml(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        config.read_yaml(path)


def test_missing_yaml(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        config.read_yaml(tmp_path / "none.yaml")


def test_one_object_per_ratio_and_settings_reach_it() -> None:
    found = config.settings_of(MethodSpec(name="tome", settings={"around": "mlp"}), (0.1, 0.3))
    assert [(m.ratio, m.settings.around) for m in found] == [(0.1, "mlp"), (0.3, "mlp")]  # type: ignore[attr-defined]
    fixed = config.settings_of(MethodSpec(name="tome", settings={"ratio": 0.5}), (0.1, 0.3))
    assert [m.ratio for m in fixed] == [0.5]
    assert len(config.settings_of(MethodSpec(name="dense"), (0.1, 0.3))) == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"aroun": "mlp"}, "did you mean 'around'"), ({"ratio": 0.8}, "0.75"), ({"around": "head"}, "around")],
)
def test_bad_settings_name_the_method(settings: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=f"method 'tome'.*{said}"):
        config.settings_of(MethodSpec(name="tome", settings=settings), (0.1,))


def test_two_configurations_never_share_a_folder_name() -> None:
    names = {build(v).run_name() for v in ({}, {"cases": 8}, {"methods": "tome"}, {"guidance": 1.0}, {"batch": 4})}
    assert len(names) == 5
