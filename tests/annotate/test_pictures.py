from __future__ import annotations

import io

import pytest
from PIL import Image

from raylab.annotate.pictures import picture
from raylab.schema import Reason
from raylab.sources.base import Limits
from raylab.sources.images import ImageRefused


def encoded(size: tuple[int, int], kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(2000, 1500), (3000, 200), (640, 480)])
def test_a_picture_is_made_to_fit_the_token_budget_and_keeps_its_shape(size):
    small = Image.open(io.BytesIO(picture(encoded(size), Limits(), 256 * 784)))
    assert small.width * small.height <= 256 * 784
    assert small.width / small.height == pytest.approx(size[0] / size[1], rel=0.03)


def test_a_small_picture_keeps_its_size():
    assert Image.open(io.BytesIO(picture(encoded((100, 80), "PNG"), Limits(), 256 * 784))).size == (100, 80)


def test_what_is_refused_elsewhere_is_refused_here():
    with pytest.raises(ImageRefused) as refused:
        picture(b"no image", Limits(), 1000)
    assert refused.value.reason is Reason.IMAGE_FORMAT
