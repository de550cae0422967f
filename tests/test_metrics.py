"""Quality metrics: known answers, loading from local files, and what is said where something is absent."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
)

import harness
from harness import config, plan, registry
from harness.cli.options import by_metric
from harness.errors import UserError
from harness.metric import Sample, images_to_uint8
from harness.models import Model
from harness.spec import Case
from results.analysis.frechet import frechet
from tasks.metrics import clip, cmmd, features, fid, inception, kid, lpips, references
from tasks.metrics.clip_score import ClipScore
from tasks.metrics.fid import FID
from tasks.metrics.references import Reference

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
WORDS = ("red", "blue", "star", "circle", "a", "and")


class Pooled(nn.Module):
    """What stands in for Inception's weights: the same calls, as clean-fid makes them, but hardly any work."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(3 * 16, inception.WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.project(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))[:, :, None, None]


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = Pooled()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("inception") / inception.FILE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Base().eval()).save(str(path))
    return path


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP itself, untrained and tiny, with a tokenizer whose words are single characters."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip") / "tiny-clip"
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocab = {t: i for i, t in enumerate([*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"])}
    end = vocab["<|endoftext|>"]
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    text = CLIPTextConfig(vocab_size=len(vocab), max_position_embeddings=20, **special, **shape)
    vision = CLIPVisionConfig(image_size=32, patch_size=8, **shape)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16))
    model.save_pretrained(folder)
    tokenizer = CLIPTokenizer(vocab=vocab, merges=[], model_max_length=20)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(pictures, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of several sizes with captions."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    lines = []
    for i in range(6):
        pixels = rng.integers(256, size=(40 + 8 * (i % 3), 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"a {WORDS[i % 2]} {WORDS[2 + i % 2]}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def sample(count: int = 3) -> Sample:
    images = np.random.default_rng(1).integers(256, size=(count, 64, 64, 3), dtype=np.uint8)
    return Sample(tuple(Case(i, f"a {WORDS[i]}", seed=i) for i in range(count)), images)


# -- distances between sets ----------------------------------------------------------------------------------


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


# -- reference sets ------------------------------------------------------------------------------------------


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


# -- CLIP ----------------------------------------------------------------------------------------------------


def test_clip_score_is_the_models_own_cosine(clip_folder: Path, model: Model) -> None:
    metric = ClipScore(model, config.metric_settings_of(ClipScore, {"model": str(clip_folder)}))  # type: ignore[arg-type]
    metric.check()
    judged = sample(4)
    found = metric.estimates(judged, None)["clip_score[tiny-clip]"]
    processor, network = CLIPProcessor.from_pretrained(clip_folder), CLIPModel.from_pretrained(clip_folder)
    images, texts = [Image.fromarray(i) for i in judged.images], [case.prompt for case in judged.cases]
    with torch.no_grad():
        out = network(**processor(text=texts, images=images, return_tensors="pt", padding=True))
    wanted = (out.image_embeds * out.text_embeds).sum(-1)
    assert found.value == pytest.approx(float(wanted.mean()), abs=1e-5)
    assert found.n == 4 and found.better == "higher" and "not multiplied by 100" in found.convention
    assert found.low is not None and found.low <= found.value


def test_clip_embeddings(clip_folder: Path) -> None:
    opened, cpu = clip.open_(str(clip_folder)), torch.device("cpu")
    texts = ["a star", "a star", "a red circle " * 9]
    embedded = opened.texts(texts, cpu)
    assert np.allclose((embedded[0] * embedded[1]).sum(), 1) and np.allclose(np.linalg.norm(embedded, axis=1), 1)
    assert (embedded[0] * embedded[2]).sum() < 1 - 1e-6
    assert np.allclose(embedded[:1], opened.texts(texts[:1], cpu), atol=1e-6)  # padding changes nothing
    images = list(np.random.default_rng(0).integers(256, size=(3, 40, 56, 3), dtype=np.uint8))
    together = opened.images(images, cpu)
    assert np.allclose(together[2:], opened.images(images[2:], cpu), atol=1e-6)
    channels_last_or_first = np.random.default_rng(0).integers(256, size=(1, 3, 40, 3), dtype=np.uint8)
    assert opened.images(channels_last_or_first, cpu).shape == (1, 16)


def test_bad_clip_folders(clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'nobody/nothing' is neither a folder nor in the local hub cache.*hf download"):
        clip.open_("nobody/nothing")
    with pytest.raises(UserError, match=r"CLIP folder \./no where/at/all does not exist"):
        clip.open_("./no where/at/all")
    with pytest.raises(UserError, match=r"holds no \*\.safetensors"):
        clip.open_(str(tmp_path))
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in clip_folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(UserError, match="weights file of .* is damaged"):
        clip.open_(str(broken))
    (broken / "model.safetensors").write_bytes((clip_folder / "model.safetensors").read_bytes())
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        (broken / name).unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"has no tokenizer: expected tokenizer\.json"):
        clip.open_(str(broken))
    (broken / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="processor in CLIP folder .* cannot be loaded"):
        clip.open_(str(broken))
    for file in broken.glob("*processor_config.json"):
        file.unlink()
    with pytest.raises(UserError, match="has no image processor"):
        clip.open_(str(broken))
    settings = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**settings, "model_type": "siglip"}))
    with pytest.raises(UserError, match="of type 'siglip'; expected 'clip'"):
        clip.open_(str(broken))


# -- LPIPS ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lpips_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From files of the published forms, with random numbers in them."""
    from torchvision import models

    folder = tmp_path_factory.mktemp("lpips")
    torch.manual_seed(0)
    net = models.alexnet()
    torch.save(net.state_dict(), folder / "net.pth")
    torch.save({f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(lpips.CHANNELS["alex"])},
               folder / "linear.pth")  # fmt: skip
    assert lpips.convert(folder / "net.pth", folder / "linear.pth", folder / "out.safetensors") == "alex"
    return folder / "out.safetensors"


def test_lpips_by_its_definition(lpips_file: Path) -> None:
    """Once more, written out on torchvision's own network, with one pass per stage."""
    from torchvision import models

    net = models.alexnet().eval()
    net.load_state_dict(torch.load(lpips_file.parent / "net.pth"))
    lines = torch.load(lpips_file.parent / "linear.pth")
    a, b = sample(2).images, sample(4).images[2:]
    pair = [torch.tensor(x).permute(0, 3, 1, 2) / 127.5 - 1 for x in (a, b)]
    shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
    wanted = torch.zeros(2)
    with torch.no_grad():
        for stage, end in enumerate((2, 5, 8, 10, 12)):
            x, y = (nn.functional.normalize(net.features[:end]((p - shift) / scale), dim=1) for p in pair)
            wanted += ((x - y) ** 2 * lines[f"lin{stage}.model.1.weight"]).sum(1).mean((1, 2))
    found = lpips.between(lpips.network(lpips_file), a, b, torch.device("cpu"))
    assert np.allclose(found, wanted.numpy(), rtol=1e-4)
    assert np.all(lpips.between(lpips.network(lpips_file), a, a, torch.device("cpu")) == 0)


def test_lpips_on_vgg_and_bad_files(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in lpips.Perceptual("vgg").state_dict().items()}
    zeros = {name: torch.zeros(shape, dtype=torch.float16) for name, shape in shapes.items()}
    save_file(zeros, tmp_path / "v.safetensors")
    assert lpips.net_of(tmp_path / "v.safetensors") == "vgg"
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"nothing")
    for name, match in (("a", "fit neither AlexNet nor VGG"), ("b", "no readable safetensors"), ("c", "do not exist")):
        with pytest.raises(UserError, match=match):
            lpips.net_of(tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match="cannot be read as state dicts"):
        lpips.convert(tmp_path / "b.safetensors", tmp_path / "b.safetensors", tmp_path / "out.safetensors")
    torch.save({}, tmp_path / "empty.pth")
    with pytest.raises(UserError, match=r"holds no lin0\.model\.1\.weight"):
        lpips.convert(tmp_path / "empty.pth", tmp_path / "empty.pth", tmp_path / "out.safetensors")


# -- in a sweep ----------------------------------------------------------------------------------------------


def test_all_metrics_of_real_models_in_a_sweep(
    small: dict[str, Any], weights: Path, clip_folder: Path, photos: Path, lpips_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The folder's captions are the prompts and its images the reference set, and every declared column comes true."""
    # 27 figures: drawn in other tests
    monkeypatch.setattr("results.plots.pareto_plot.write_plots", lambda table, folder, **_: [])
    settings = {
        "fid": {"weights": weights}, "kid": {"weights": weights.parent}, "lpips": {"weights": lpips_file},
        "clip-score": {"model": clip_folder}, "cmmd": {"model": clip_folder},
    }  # fmt: skip
    settings = {name: {key: str(value) for key, value in own.items()} for name, own in settings.items()}
    names = ["paired", *settings]
    table = harness.run(["tome"], out=tmp_path / "run", metrics=names, metric_settings=settings, data=photos, **small)
    frame = pd.read_csv(tmp_path / "run" / "tables" / "results.csv")
    assert frame["outcome"].tolist() == ["ok", "ok"], frame["reason"].tolist()
    tome = frame.set_index("method").loc["tome"]
    for column in ("fid[inception]", "kid[inception]", "clip_score[tiny-clip]", "cmmd[tiny-clip]",
                   "lpips_to_dense[alex]"):  # fmt: skip
        assert tome[f"{column}_low"] <= tome[column] <= tome[f"{column}_high"], column
    assert pd.isna(frame.set_index("method").loc["dense", "lpips_to_dense[alex]"])
    assert "fid[shapes-judge]" not in frame  # the judge's references are renders, which the captions are not of
    record = table.records[1]
    prints = record.fingerprint
    assert "resize clean, reference" in prints["fid[inception]"] and "reference" in prints["cmmd[tiny-clip]"]
    assert {"kid[inception]", "clip_score[tiny-clip]", "lpips_to_dense[alex]"} <= set(prints)
    assert "6 images of" in record.estimates["fid[inception]"].convention
    for name in names:
        declared = {c.name.replace("<model>", "tiny-clip"): c for c in registry.metrics.get(name).columns}
        mine = {key: e for key, e in record.estimates.items() if key in declared}
        assert mine, name
        assert all((e.unit, e.better) == (declared[key].unit, declared[key].better) for key, e in mine.items())


def test_the_default_run_leaves_out_what_has_no_weights(small: dict[str, Any], photos: Path) -> None:
    wanted = ["alignment", "fid", "kid", "masked-alignment", "paired", "seam", "square", "truth"]
    for data in (None, photos):
        (made,) = plan.make(config.build({**small, "methods": "dense", "data": data}))
        # renders are no reference for the user's own captions
        left_out = () if data is None else ("fid", "kid")
        assert [metric.name for metric in made.opened.metrics] == [name for name in wanted if name not in left_out]
        assert not any("inception" in name for name in made.opened.workload.fingerprint)


def test_the_reference_set_is_part_of_the_key(
    small: dict[str, Any], weights: Path, photos: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for i in range(2):
        Image.new("RGB", (32, 32), (i, 0, 0)).save(other / f"{i}.png")

    def key(folder: Path) -> str:
        settings = {"fid": {"weights": weights, "reference": folder}}
        return plan.make(config.build({**small, "methods": "dense", "metric_settings": settings}))[0].points[0].key

    assert key(photos) != key(other)
    moved = tmp_path / "moved"
    other.rename(moved)
    before = key(moved)
    moved.rename(other)
    assert key(other) == before  # contents count, not places


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"metrics": ["clip-score"]}, "metric 'clip-score': no CLIP model; give --metric-set clip-score.model=FOLDER"),
        ({"metrics": ["cmmd"]}, "metric 'cmmd': no CLIP model"),
        ({"metrics": ["lpips"]}, "metric 'lpips': no weights; make them with"),
        ({"metric_settings": {"lpips": {"weights": "gone"}}}, "metric 'lpips': LPIPS weights gone do not exist"),
        ({"metric_settings": {"fid": {"reference": "gone"}}}, r"metric 'fid': no Inception weights; save https://"),
        ({"metric_settings": {"fid": {"weights": "gone"}}}, "metric 'fid': Inception weights gone do not exist"),
        ({"metric_settings": {"fud": {}}}, "unknown metric 'fud': did you mean 'fid'"),
        ({"metric_settings": {"fid": {"referense": "a"}}}, "of metric 'fid' 'referense': did you mean 'reference'"),
        ({"metric_settings": {"paired": {"a": 1}}}, "setting of metric 'paired' 'a': known: none"),
        ({"metrics": ["kid"], "metric_settings": {"fid": {"weights": "a"}}}, "'fid' has settings but is not among"),
    ],
)  # fmt: skip
def test_what_is_missing_is_said_before_anything_runs(
    small: dict[str, Any], values: dict[str, Any], match: str
) -> None:
    with pytest.raises(UserError, match=match):
        plan.make(config.build({**small, "methods": "dense", **values}))


def test_fid_needs_a_reference_and_sound_weights(weights: Path, tmp_path: Path, model: Model) -> None:
    def check(**settings: Path) -> None:
        FID(model, config.metric_settings_of(FID, settings)).check()  # type: ignore[type-abstract]

    with pytest.raises(UserError, match=r"no reference set; give --metric-set fid\.reference=FOLDER"):
        check(weights=weights)
    (tmp_path / "other.pt").write_bytes(b"")
    with pytest.raises(UserError, match=f"must keep the name {inception.FILE}"):
        check(weights=tmp_path / "other.pt")
    (tmp_path / inception.FILE).write_bytes(b"<html>")
    with pytest.raises(UserError, match="are damaged"):
        check(weights=tmp_path)


OLD = """
import harness
from harness.metric import Metric
from results.record import Estimate

@harness.metrics.register("brightness")
class Brightness(Metric):
    def __init__(self, model):
        super().__init__(model)
    def estimates(self, sample, dense):
        return {"brightness": Estimate(value=float(sample.images.mean()), n=1, unit="levels", convention="mean")}
"""


def test_a_third_partys_metric_without_settings_keeps_working(small: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "brightness.py").write_text(OLD)
    try:
        registry.load_plugin(tmp_path / "brightness.py")
        (made,) = plan.make(config.build({**small, "methods": "dense", "metrics": ["brightness"]}))
    finally:
        registry.metrics.forget("brightness")
        sys.modules.pop("harness_plugin_brightness", None)
    assert made.opened.metrics[0].estimates(sample(), None)["brightness"].value > 0


def test_the_example_plugin(small: dict[str, Any], clip_folder: Path) -> None:
    try:
        registry.load_plugin(EXAMPLES / "pickscore.py")
        settings = {"pick-score": {"model": str(clip_folder), "processor": str(clip_folder)}}
        (made,) = plan.make(
            config.build({**small, "methods": "dense", "metrics": "pick-score", "metric_settings": settings})
        )
        judged = sample()
        found = made.opened.metrics[0].estimates(judged, None)["pick_score"]
        with pytest.raises(UserError, match="metric 'pick-score': CLIP model 'yuvalkirstain/PickScore_v1' is neither"):
            plan.make(config.build({**small, "methods": "dense", "metrics": ["pick-score"]}))
    finally:
        registry.metrics.forget("pick-score")
        sys.modules.pop("harness_plugin_pickscore", None)
    opened, cpu = clip.open_(str(clip_folder)), torch.device("cpu")
    cosine = opened.images(judged.images, cpu) * opened.texts([c.prompt for c in judged.cases], cpu)
    assert found.value == pytest.approx(opened.network.logit_scale.exp().item() * cosine.sum(1).mean(), rel=1e-5)


def test_metric_settings_on_the_command_line() -> None:
    texts = ["fid,kid.reference=a=b", "clip-score.model=openai/clip-vit-base-patch32"]
    assert by_metric(texts) == {
        "fid": {"reference": "a=b"}, "kid": {"reference": "a=b"},
        "clip-score": {"model": "openai/clip-vit-base-patch32"},
    }  # fmt: skip
    for text in ("fid.weights", "weights=a", ".weights=a", "fid.=a"):
        with pytest.raises(UserError, match="--metric-set expects METRIC.NAME=VALUE, got"):
            by_metric([text])


def test_figures_do_not_depend_on_the_order_in_memory() -> None:
    """Images from a sampler and from PNG files may lie otherwise in memory, and are the same images."""
    draw = torch.Generator().manual_seed(0)
    made = images_to_uint8(torch.rand(2, 3, 64, 64, generator=draw))
    cases = tuple(Case(i, "a", seed=i) for i in range(2))
    turned = np.asfortranarray(made)
    one, other = Sample(cases, made), Sample(cases, turned)
    assert made.flags["C_CONTIGUOUS"] and not turned.flags["C_CONTIGUOUS"] and other.images.flags["C_CONTIGUOUS"]
    assert np.array_equal(features.features(one), features.features(other))
