import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.zoo.shapes import networks, scene


def _triples(scenes: scene.Scenes) -> list[list[tuple[int, int, int]]]:
    return [[(s, c, q) for q, (s, c, *_rest) in enumerate(objects) if s >= 0] for objects in scenes.objects.tolist()]


@given(st.integers(0, 10**9))
@settings(max_examples=50, deadline=None)
def test_train_never_shows_what_evaluation_always_does(index: int) -> None:
    train, evaluation = (_triples(scene.sample(split, [index]))[0] for split in ("train", "evaluation"))
    assert not any(scene.held_out(*triple) for triple in train)
    assert any(scene.held_out(*triple) for triple in evaluation)
    assert 1 <= len(train) <= 3 and 1 <= len(evaluation) <= 3


def test_a_scene_is_a_function_of_its_index() -> None:
    together, alone = scene.sample("train", [5, 6, 7]), scene.sample("train", [6])
    assert torch.equal(together.objects[1], alone.objects[0])
    image, coverage = scene.render(together)
    assert torch.equal(image[1], scene.render(alone)[0][0])
    assert image.shape == (3, 3, 64, 64) and image.min() >= 0 and image.max() <= 1
    assert coverage.shape == (3, 64, 64)


def test_splits_are_streams_of_their_own() -> None:
    a, b = scene.sample("evaluation", range(50)), scene.sample("reference", range(50))
    assert not torch.equal(a.objects, b.objects)


def test_more_than_a_million_scenes() -> None:
    kinds = int(np.prod(list(scene.ATTRIBUTES.values())))
    grounds = len(scene.BACKGROUNDS) * len(scene.BACKGROUND_TEXTURES)
    assert 4 * (kinds * 7 // 8) ** 3 * grounds > 10**6  # three objects, quadrants chosen four ways


def test_objects_stay_in_their_quadrant_and_show() -> None:
    scenes = scene.sample("train", range(200))
    _, coverage = scene.render(scenes)
    for row, present in enumerate(scenes.present):
        for quadrant in range(4):
            top, left = quadrant // 2 * 32, quadrant % 2 * 32
            covered = coverage[row, top : top + 32, left : left + 32].sum()
            assert (covered > 30) == bool(present[quadrant])


def test_every_caption_is_in_the_vocabulary_and_fits() -> None:
    tokenizer = networks.tokenizer()
    captions = scene.sample("evaluation", range(200)).captions()
    batch = tokenizer(captions)
    assert max(len(ids) for ids in batch.input_ids) <= networks.TEXT_TOKENS
    assert all(tokenizer.unk_token_id not in ids for ids in batch.input_ids)
    assert len(set(captions)) > 190
