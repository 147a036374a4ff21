"""Drawing and scenes: every entity can be told from the others, and the same generator gives the same picture."""

import numpy as np
import pytest
from PIL import Image

from raylab.sources.miniworld.draw import TEXTURE_HEIGHT, draw_design, texture
from raylab.sources.miniworld.entities import PICTURED
from raylab.sources.miniworld.scene import SIZE, layout, render

FRANCE, LIMA, STOP = "mw:flag-of-france", "mw:signal-flag-lima", "mw:stop-sign"


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_every_pictured_entity_is_drawn():
    for entity in PICTURED:
        pixels = texture(entity.id)
        assert pixels.dtype == np.uint8, entity.id
        assert pixels.shape[0] == TEXTURE_HEIGHT and pixels.shape[2] == 4, entity.id
        assert (pixels[..., 3] > 0).mean() > 0.2, entity.id


def test_no_two_entities_look_the_same():
    small = [Image.fromarray(texture(entity.id)).resize((24, 16), Image.Resampling.BOX) for entity in PICTURED]
    flat = np.stack([np.asarray(image, np.float32)[..., :3].ravel() for image in small])
    distance = np.abs(flat[:, None] - flat[None]).mean(-1)
    np.fill_diagonal(distance, np.inf)
    assert distance.min() > 5  # of 255: Romania and Chad, Indonesia and Monaco differ by their shades alone
    assert (distance.min(axis=1) < 12).mean() < 0.1


def test_a_texture_cannot_be_changed_by_who_uses_it():
    with pytest.raises(ValueError, match="read-only"):
        texture(FRANCE)[0, 0, 0] = 1


def test_a_design_is_stripes_in_the_order_written():
    pixels = draw_design("3:2; v #ff0000 #00ff00*2 #0000ff")
    middle = pixels[TEXTURE_HEIGHT // 2, :, :3].argmax(-1)
    assert pixels.shape == (TEXTURE_HEIGHT, round(TEXTURE_HEIGHT * 1.5), 4)
    assert np.bincount(middle).tolist() == [36, 72, 36]


def test_a_sign_is_transparent_about_its_shape():
    alpha = texture(STOP)[..., 3]
    assert alpha[0, 0] == alpha[-1, -1] == 0
    assert alpha[TEXTURE_HEIGHT // 2, TEXTURE_HEIGHT // 2] == 255


def test_an_unknown_operation_is_named():
    with pytest.raises(ValueError, match="'squiggle'"):
        draw_design("3:2; squiggle #ff0000")


@pytest.mark.parametrize("entity_ids", [(), (FRANCE,), (LIMA, STOP)])
def test_the_generator_alone_decides_a_scene(entity_ids):
    one, placed = render(entity_ids, rng(3))
    two, placed_again = render(entity_ids, rng(3))
    other, _ = render(entity_ids, rng(4))
    assert one.mode == "RGB" and one.size == (SIZE, SIZE)
    assert one.tobytes() == two.tobytes() != other.tobytes()
    assert placed == placed_again == layout(entity_ids, rng(3))


def test_two_entities_stand_left_to_right():
    for seed in range(50):
        left, right = layout((LIMA, STOP), rng(seed))
        assert (left.entity_id, right.entity_id) == (LIMA, STOP)
        assert sum(x for x, _ in left.corners) < sum(x for x, _ in right.corners)


def test_boxes_lie_in_the_scene_and_are_not_empty():
    for seed in range(200):
        entity = PICTURED[seed % len(PICTURED)]
        (placement,) = layout((entity.id,), rng(seed))
        left, top, right, bottom = placement.box
        assert 0 <= left < right <= SIZE and 0 <= top < bottom <= SIZE


def test_the_entity_is_painted_into_its_box():
    yellow_inside, yellow_outside = [], []
    for seed in range(40):
        image, (placement,) = render(("mw:signal-flag-quebec",), rng(seed))
        red, _, blue = np.moveaxis(np.asarray(image, np.float32), -1, 0)
        left, top, right, bottom = placement.box
        inside = np.zeros((SIZE, SIZE), bool)
        inside[top:bottom, left:right] = True
        yellow_inside.append((red - blue)[inside].mean())
        yellow_outside.append((red - blue)[~inside].mean())
    assert np.median(yellow_inside) > np.median(yellow_outside) + 60


def test_a_scene_holds_at_most_two_entities():
    with pytest.raises(ValueError, match="at most two"):
        render((FRANCE, LIMA, STOP), rng())


def test_an_unknown_entity_is_named():
    with pytest.raises(KeyError, match="mw:atlantis"):
        render(("mw:atlantis",), rng())
