"""Distances between sets of features: known answers."""

import warnings

import numpy as np
import pytest

from results.analysis.frechet import frechet
from tasks.metrics import cmmd, fid, kid
from tasks.metrics.references import Reference


@pytest.mark.parametrize(("n", "d"), [(120, 8), (20, 32)])
def test_fid_is_clean_fids_and_zero_for_the_same_set(n: int, d: int) -> None:
    from cleanfid import fid as theirs

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)), rng.normal(size=(200, d)) + 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = theirs.fid_from_feats(x, y)
    found = fid.estimate(x, Reference.of(y, "images"), "test")
    assert found.value == pytest.approx(wanted, rel=1e-6)
    assert found.low is not None and found.high is not None and found.low < found.value < found.high
    same = fid.estimate(x, Reference.of(x, "images"), "test").value
    assert same == pytest.approx(0, abs=1e-6 * np.trace(np.cov(x.T)))


def test_fid_of_shifted_and_scaled_gaussians_has_its_closed_form() -> None:
    """Means apart by a vector v: |v|^2. A covariance times four: the trace of (2 - 1)^2 S."""
    x = np.random.default_rng(0).normal(size=(300, 6))
    shift = np.array([3.0, 0, 0, 4.0, 0, 0])
    assert fid.estimate(x + shift, Reference.of(x, "images"), "test").value == pytest.approx(25, rel=1e-9)
    spread = np.trace(np.cov(x, rowvar=False))
    centred = x - x.mean(0)
    assert fid.estimate(2 * centred, Reference.of(centred, "images"), "test").value == pytest.approx(spread, rel=1e-9)


@pytest.mark.parametrize("distance", ["fid", "kid", "cmmd"])
def test_images_of_one_prompt_are_drawn_together(distance: str) -> None:
    """Eight of each, all alike: the interval is that of the prompts."""
    rng = np.random.default_rng(0)
    prompts, y = rng.normal(size=(64, 4)), rng.normal(size=(400, 4)) + 0.3
    x, clusters = np.repeat(prompts, 8, axis=0), np.repeat(np.arange(64), 8)

    def width(features: np.ndarray, labels: np.ndarray | None) -> float:
        if distance == "cmmd":
            found = cmmd.distance(5 * features, 5 * y, labels)
        else:
            estimate = {"fid": fid, "kid": kid}[distance].estimate
            found = estimate(features, Reference.of(y, "images"), "test", labels)
        assert found.low is not None and found.high is not None
        return found.high - found.low

    assert width(x, clusters) == pytest.approx(width(prompts, None), rel=0.3)
    assert width(x, clusters) > 1.8 * width(x, None)


def test_fid_replicates_are_the_fid_of_the_resampled_images() -> None:
    rng = np.random.default_rng(0)
    for n, d in ((40, 5), (10, 30)):
        x, reference = rng.normal(size=(n, d)), Reference.of(rng.normal(size=(60, d)), "images")
        rows = rng.integers(n, size=n)
        shifted = x - reference.mean
        trace = float(np.trace(reference.covariance))
        counts = np.bincount(rows, minlength=n)
        found = frechet(shifted, shifted @ reference.root, trace, counts)
        assert found == pytest.approx(fid.estimate(x[rows], reference, "test").value, rel=1e-6)


def test_fid_with_many_features_takes_fewer_resamples_and_says_so() -> None:
    rng = np.random.default_rng(0)
    wide = fid.estimate(rng.normal(size=(514, 520)), Reference.of(rng.normal(size=(600, 520)), "images"), "test")
    assert len(wide.replicates) == 40 and "40 resamples" in wide.convention and wide.n == 514


def test_kid_sees_a_shift_and_is_zero_on_average_for_the_same_law() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 8)), Reference.of(rng.normal(size=(70, 8)), "images")
    same, other = kid.estimate(x, y, "test"), kid.estimate(x + 1, y, "test")
    assert same.low is not None and same.high is not None and same.low < 0 < same.high
    assert other.low is not None and other.low > same.high


def test_cmmd_known_answers() -> None:
    """Equal sets: 0. All images at one point, all references at another: 2 x 1000 x (1 - kernel of the two)."""
    x = np.random.default_rng(0).normal(size=(30, 4))
    assert cmmd.distance(x, x).value == pytest.approx(0, abs=1e-9)
    a, b = np.zeros((5, 4)), np.tile([2.0, 0, 0, 0], (7, 1))
    wanted = 2000 * (1 - np.exp(-4 / 200))
    assert cmmd.distance(a, b).value == pytest.approx(wanted, rel=1e-12)


def test_cmmd_goes_through_strips_and_resamples_as_if_computed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(25, 4)), rng.normal(size=(33, 4)) + 1
    squares = [((p[:, None] - q) ** 2).sum(-1) for p, q in ((x, x), (y, y), (x, y))]
    kernels = [np.exp(-s / 200).mean() for s in squares]
    whole = cmmd.distance(x, y)
    assert whole.value == pytest.approx(1000 * (kernels[0] + kernels[1] - 2 * kernels[2]), rel=1e-9)
    monkeypatch.setattr(cmmd, "_ROWS", 7)
    assert np.allclose(cmmd.distance(x, y).replicates, whole.replicates, rtol=1e-9)
