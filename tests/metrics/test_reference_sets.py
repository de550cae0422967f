"""Reference sets of images: folders, statistics files, and what is wrong with them."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import sample

from harness.errors import UserError
from tasks.metrics import inception, kid, references
from tasks.metrics.references import Reference


def test_a_statistics_file_serves_as_the_folder_it_was_made_from(
    weights: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "stats.npz"
    monkeypatch.setattr(sys, "argv", ["inception", str(photos), str(out), "--weights", str(weights)])
    inception._main()
    x = inception.features(sample().images, weights, torch.device("cpu"))
    folder = Reference.of(inception.features(references.images(photos), weights, torch.device("cpu")), "images")
    assert folder.features is not None and folder.features.shape == (6, inception.WIDTH)
    for held in (False, True):
        references.check(out, features=held)
        stored = references.from_statistics(out, features=held, width=inception.WIDTH)
        assert np.allclose(stored.mean, folder.mean) and np.allclose(stored.covariance, folder.covariance)
        assert (stored.features is not None) == held
    wanted = kid.estimate(x, folder, "test").value
    assert kid.estimate(x, stored, "test").value == pytest.approx(wanted)
    # as clean-fid itself names them: the moments in one file, the features in another beside it
    np.savez(tmp_path / "a.npz", mu=folder.mean, sigma=folder.covariance)
    with pytest.raises(UserError, match=r"a\.npz holds no features .*_kid\.npz"):
        references.check(tmp_path / "a.npz", features=True)
    np.savez(tmp_path / "a_kid.npz", feats=folder.features)
    references.check(tmp_path / "a.npz", features=True)
    again = references.from_statistics(tmp_path / "a.npz", features=True, width=inception.WIDTH)
    assert np.array_equal(again.features, folder.features)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="width 2048; this extractor gives 64"):
        references.from_statistics(tmp_path / "a.npz", features=False, width=64)


def test_bad_reference_sets(photos: Path, tmp_path: Path) -> None:
    def refused(path: Path, match: str, **options: bool) -> None:
        with pytest.raises(UserError, match=match):
            references.check(path, **options)

    refused(tmp_path / "nowhere", "does not exist; expected a folder of images, or a clean-fid statistics file")
    refused(tmp_path, "holds 0 images")
    (tmp_path / "a.npz").write_bytes(b"no archive")
    refused(tmp_path / "a.npz", "is no readable .npz file")
    refused(tmp_path / "a.npz", "is no folder; expected a folder of images$", statistics=False)
    np.savez(tmp_path / "b.npz", other=np.zeros(3))
    refused(tmp_path / "b.npz", "holds other; expected mu and sigma, or feats")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "gone.png", "text": "a"}')
    refused(tmp_path, r"line 1 of .*metadata\.jsonl names gone\.png, which is not there")
    for name in ("x.png", "y.png"):
        (tmp_path / name).write_bytes(b"no image")
    (tmp_path / "metadata.jsonl").unlink()
    with pytest.raises(UserError, match=r"x\.png is no readable image"):
        list(references.images(tmp_path))


def test_inception_is_fed_as_clean_fid_feeds_it(weights: Path) -> None:
    """Against clean-fid's own way through a file on disk."""
    from cleanfid.features import InceptionV3W
    from cleanfid.resize import build_resizer

    image = sample(1).images[0]
    resized = torch.from_numpy(build_resizer("clean")(image)).permute(2, 0, 1)[None]
    with torch.no_grad():
        wanted = InceptionV3W(str(weights.parent), download=False)(resized).numpy()
    assert np.array_equal(inception.features([image], weights, torch.device("cpu")), wanted.astype(np.float64))
