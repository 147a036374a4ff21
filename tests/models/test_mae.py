"""Masking to the patch, the loss by hand, and the same numbers as Hugging Face's ViTMAE with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raylab.errors import RaylabError
from raylab.models.captioner import CaptionDecoder, CaptionShape, Vocabulary
from raylab.models.dual_encoder import normalised
from raylab.models.image_encoder import ImageEncoder, is_encoder
from raylab.models.mae import (
    PixelDecoder,
    PixelShape,
    VitConfig,
    encode_visible,
    masked_places,
    normalised_patches,
    patches,
    sines,
    visible_places,
)
from raylab.models.mae_weights import from_hugging_face, load
from raylab.models.mug import Mug

SIDE, PATCH = 32, 8
VIT = VitConfig("vit_tiny_patch16_224", image_size=SIDE, patch=PATCH, width=32, layers=2, heads=4)
PIXELS = PixelShape(width=16, layers=2, heads=2)


def scattered(module: nn.Module) -> None:
    """Draw weights far from the small initial values, biases too: a slip would be seen."""
    for parameter in module.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.2)


def mae(seed: int = 0, masked: float = 0.75) -> Mug:
    torch.manual_seed(seed)
    module = Mug.make(VIT, PIXELS, None, masked)
    scattered(module)
    return module


def images(count: int = 3) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, SIDE, SIDE, 3), generator=draw, dtype=torch.uint8)


def test_a_quarter_is_visible_another_one_of_each_picture() -> None:
    noise_BN = torch.rand(64, 196, generator=torch.Generator().manual_seed(0))
    visible_BK = visible_places(noise_BN, Mug.make(VitConfig(layers=1), None, None, 0.75).keep)
    assert visible_BK.shape == (64, 49)
    chosen = [frozenset(row) for row in visible_BK.tolist()]
    assert all(len(one) == 49 and min(one) >= 0 and max(one) < 196 for one in chosen)
    assert len(set(chosen)) == 64
    mask_BN = masked_places(visible_BK, 196)
    assert mask_BN.sum(1).tolist() == [147] * 64
    assert all(set(row.nonzero()[:, 0].tolist()) == set(range(196)) - one for row, one in zip(mask_BN, chosen))
    times_N = (1 - mask_BN).sum(0)
    assert times_N.min() >= 3 and times_N.max() <= 32, "each place is visible about 16 times"


def noise_of(image_BHWC: torch.Tensor) -> torch.Tensor:
    return torch.rand(len(image_BHWC), 16, generator=torch.Generator().manual_seed(0))


def test_patches_are_counted_without_a_network() -> None:
    assert (VIT.patches, VitConfig().patches) == (16, 196)


def test_what_is_painted_is_put_together_again() -> None:
    """With the true patches for what was painted, the picture itself comes out; else grey lies on what is hidden."""
    module, image_BHWC = mae(), images()
    noise_BN = noise_of(image_BHWC)
    _, visible_BK = module.look(image_BHWC, noise_BN)
    truth_BNP = normalised_patches(patches(normalised(image_BHWC, module.mean, module.std), PATCH))
    seen_BHWC, full_BHWC = module.painted(truth_BNP, image_BHWC, visible_BK)
    assert full_BHWC.dtype == torch.uint8
    assert (full_BHWC.int() - image_BHWC.int()).abs().max() <= 1
    seen_BNP, true_BNP = (patches(one.permute(0, 3, 1, 2).float(), PATCH) for one in (seen_BHWC, image_BHWC))
    hidden_BN = masked_places(visible_BK, 16).bool()
    assert (seen_BNP - true_BNP)[~hidden_BN].abs().max() <= 1
    assert len(seen_BNP[hidden_BN].unique(dim=0)) == 1


def test_what_is_masked_is_not_seen() -> None:
    module, image_BHWC = mae(), images(1)
    visible_BK = torch.tensor([[0, 5, 9, 15]])
    noise_BN = torch.ones(1, 16).scatter(1, visible_BK, torch.zeros(1, 4))
    hidden, shown = image_BHWC.clone(), image_BHWC.clone()
    hidden[:, :PATCH, PATCH : 2 * PATCH] = 0  # the second patch of the first row
    shown[:, :PATCH, :PATCH] = 0
    before, same, other = (module(one, noise_BN=noise_BN)["pixel_BNP"] for one in (image_BHWC, hidden, shown))
    assert torch.equal(before, same)
    assert not torch.equal(before, other)


def by_hand(pixel_BNP: np.ndarray, image_BHWC: np.ndarray, visible_BK: np.ndarray) -> np.ndarray:
    """Return each picture's loss in float64, patch by patch."""
    value = (image_BHWC / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    across = SIDE // PATCH
    losses = []
    for row in range(len(value)):
        errors = []
        for number in set(range(across**2)) - set(visible_BK[row].tolist()):
            top, left = number // across * PATCH, number % across * PATCH
            patch = value[row, top : top + PATCH, left : left + PATCH].reshape(-1)
            target = (patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + 1e-6)
            errors.append(((pixel_BNP[row, number] - target) ** 2).mean())
        losses.append(np.mean(errors))
    return np.array(losses)


def test_the_loss_is_that_of_numpy_in_float64() -> None:
    module, image_BHWC = mae(), images()
    outputs = module(image_BHWC, noise_of(image_BHWC))
    found_B = module.reconstruction_losses(outputs)
    inputs = (outputs["pixel_BNP"], image_BHWC, outputs["visible_BK"])
    expected_B = by_hand(*(one.detach().numpy().astype(np.float64) for one in inputs))
    np.testing.assert_allclose(found_B.detach().numpy(), expected_B, rtol=1e-5)


def test_pixels_of_visible_patches_have_no_part_in_the_loss() -> None:
    module, image_BHWC = mae(), images()
    outputs = module(image_BHWC, noise_of(image_BHWC))
    outputs["pixel_BNP"].retain_grad()
    module.reconstruction_losses(outputs).sum().backward()
    moved_BN = (outputs["pixel_BNP"].grad != 0).any(-1)
    assert torch.equal(moved_BN, masked_places(outputs["visible_BK"], 16).bool())


def theirs(seed: int = 3) -> Any:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    decoder = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = ViTMAEConfig(
        **shape, **{f"decoder_{name}": value for name, value in decoder.items()}, image_size=SIDE, patch_size=PATCH,
        norm_pix_loss=True, layer_norm_eps=1e-6,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = ViTMAEForPreTraining(config).eval()
    scattered(model)
    model.vit.embeddings.position_embeddings.data = sines((4, 4), 32, 1)  # published weights have them; here are zeros
    model.decoder.decoder_pos_embed.data = sines((4, 4), 16, 1)
    return model


def test_the_loss_and_the_pixels_are_hugging_faces(tmp_path: Path) -> None:
    model = theirs()
    model.save_pretrained(tmp_path)
    torch.manual_seed(0)
    ours = Mug.make(VitConfig(**(vars(VIT) | {"weights": str(tmp_path)})), PIXELS, None, 0.75).eval()
    image_BHWC, noise_BN = images(), torch.rand(3, 16)
    image_BCHW = (image_BHWC.permute(0, 3, 1, 2) / 255 - ours.mean) / ours.std
    with torch.no_grad():
        expected = model(image_BCHW, noise=noise_BN)
        found = ours(image_BHWC, noise_BN=noise_BN)
        loss = ours.reconstruction_losses(found).mean()
    assert torch.equal(masked_places(found["visible_BK"], 16), expected.mask)
    torch.testing.assert_close(found["pixel_BNP"], expected.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss, expected.loss, atol=1e-5, rtol=1e-5)
    target_BNP = model.patchify(image_BCHW)
    torch.testing.assert_close(patches(image_BCHW, PATCH), target_BNP)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "vit_little_patch16_reg4_gap_256", "vit_base_patch16_clip_224"]
)
def test_an_encoder_that_sees_all_patches_is_timms(name: str) -> None:
    """With a class token or with registers, with a norm before the blocks, with positions that are learnt."""
    vit: Any = VitConfig(name, image_size=SIDE, patch=PATCH, width=32, layers=2, heads=4, pool="avg").build().eval()
    scattered(vit)
    nn.init.normal_(vit.pos_embed.requires_grad_())
    image_BCHW = torch.randn(3, 3, SIDE, SIDE)
    all_BN = torch.arange(16).expand(3, -1)
    found_BLD = encode_visible(vit, patches(image_BCHW, PATCH), all_BN, saves_memory=False)
    expected_BLD = vit.forward_features(image_BCHW)
    torch.testing.assert_close(found_BLD, expected_BLD, atol=1e-4, rtol=1e-4)
    ours = torch.autograd.grad(found_BLD.square().sum(), [vit.pos_embed, vit.patch_embed.proj.weight])
    theirs = torch.autograd.grad(expected_BLD.square().sum(), [vit.pos_embed, vit.patch_embed.proj.weight])
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_positions_are_maes() -> None:
    """The column's sines and cosines, then the row's: so lie those of the published weights."""
    across, rate = SIDE // PATCH, 10_000.0 ** (-np.arange(8) / 8)
    expected = np.zeros((across**2 + 1, 32))
    for number in range(across**2):
        row, column = divmod(number, across)
        parts = [np.sin(column * rate), np.cos(column * rate), np.sin(row * rate), np.cos(row * rate)]
        expected[number + 1] = np.concatenate(parts)
    np.testing.assert_allclose(VIT.build().pos_embed.detach().numpy()[0], expected, atol=1e-6)
    with pytest.raises(RaylabError, match="multiple of 4"):
        sines((2, 2), 6, 1)


def published(full: bool) -> dict[str, Tensor]:
    """Random weights under the names and of the shapes that facebookresearch/mae's models write."""
    block = {
        "norm1.weight": (32,), "norm1.bias": (32,), "attn.qkv.weight": (96, 32), "attn.qkv.bias": (96,),
        "attn.proj.weight": (32, 32), "attn.proj.bias": (32,), "norm2.weight": (32,), "norm2.bias": (32,),
        "mlp.fc1.weight": (128, 32), "mlp.fc1.bias": (128,), "mlp.fc2.weight": (32, 128), "mlp.fc2.bias": (32,),
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, 32), "pos_embed": (1, 17, 32), "patch_embed.proj.weight": (32, 3, 8, 8),
        "patch_embed.proj.bias": (32,), "norm.weight": (32,), "norm.bias": (32,),
    }  # fmt: skip
    shapes |= {f"blocks.{number}.{name}": shape for number in range(2) for name, shape in block.items()}
    if full:
        shapes |= {
            "mask_token": (1, 1, 16), "decoder_pos_embed": (1, 17, 16), "decoder_embed.weight": (16, 32),
            "decoder_embed.bias": (16,), "decoder_norm.weight": (16,), "decoder_norm.bias": (16,),
            "decoder_pred.weight": (192, 16), "decoder_pred.bias": (192,),
        }  # fmt: skip
        for number in range(2):
            halves = {name: tuple(size // 2 for size in shape) for name, shape in block.items()}
            shapes |= {f"decoder_blocks.{number}.{name}": shape for name, shape in halves.items()}
    draw = torch.Generator().manual_seed(9)
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


@pytest.mark.parametrize("full", [False, True])
def test_published_weights_find_their_places(full: bool, tmp_path: Path) -> None:
    state = published(full)
    torch.save({"model": state}, tmp_path / "mae_pretrain.pth")
    module = Mug.make(VitConfig(**(vars(VIT) | {"weights": str(tmp_path / "mae_pretrain.pth")})), PIXELS, None, 0.75)
    found = module.state_dict()
    places = {"decoder_embed.": "embed.", "decoder_pred.": "output.", "mask_token": "mask", "decoder_": ""}
    for name, value in state.items():
        if name == "decoder_pos_embed":  # computed, not read
            continue
        theirs = next((start for start in places if name.startswith(start)), None)
        ours = f"vit.{name}" if theirs is None else f"pixels.{places[theirs]}{name.removeprefix(theirs)}"
        torch.testing.assert_close(found[ours], value)
    assert not module.vit.pos_embed.requires_grad
    assert len(found) == len(state) - (1 if full else -len(module.pixels.state_dict()))  # type: ignore[union-attr]


def test_hugging_faces_names_become_those_of_the_published_weights() -> None:
    renamed = {name: tuple(value.shape) for name, value in from_hugging_face(theirs().state_dict()).items()}
    assert renamed == {name: tuple(value.shape) for name, value in published(full=True).items()}


def test_weights_of_another_size_of_picture_are_resampled() -> None:
    larger = VitConfig("vit_tiny_patch16_224", image_size=2 * SIDE, patch=PATCH, width=32, layers=2, heads=4).build()
    load(published(full=False), larger, None, "weights")
    assert larger.pos_embed.shape == (1, 65, 32)


def test_weights_that_do_not_fit_are_said(tmp_path: Path) -> None:
    vit = VIT.build()
    state = published(full=True)
    with pytest.raises(RaylabError, match=r"w: its decoder does not fit --task.pixels"):
        load(state, vit, PixelDecoder(PixelShape(width=32, layers=2, heads=2), vit), "w")
    del state["blocks.1.norm1.bias"]
    with pytest.raises(RaylabError, match=r"(?s)w: these weights do not fit the encoder .*norm1.bias"):
        load(state, vit, None, "w")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for place, message in ((tmp_path, "is a bert and no ViTMAE"), (tmp_path / "no.pth", "cannot be loaded")):
        with pytest.raises(RaylabError, match=message):
            Mug.make(VitConfig(**(vars(VIT) | {"weights": str(place)})), PIXELS, None, 0.75)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "vit_tinny_patch16_224"}, "Did you mean 'vit_tiny_patch16_224'"),
        ({"name": "resnet50"}, "is no vision transformer of timm"),
        ({"width": 30}, "cannot be built"),
        ({"patch": 7}, "pictures of 32 pixels cannot be cut into patches of 7"),
        ({"pool": "mean"}, "token, avg"),
    ],
)
def test_an_encoder_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RaylabError, match=message):
        VitConfig(**(vars(VIT) | settings)).build()


def test_pictures_are_as_large_as_the_name_says() -> None:
    assert (VIT.side, VitConfig().side, VitConfig("vit_base_patch16_384").side) == (SIDE, 224, 384)


def test_a_saved_encoder_is_timms_and_embeds_as_it_did(tmp_path: Path) -> None:
    import timm
    from PIL import Image

    module = mae().eval()
    module.save(tmp_path / "run" / "model")
    assert is_encoder(tmp_path / "run" / "model")
    encoder = ImageEncoder.load(tmp_path / "run" / "model", batch=2)
    assert (encoder.id, encoder.dim, encoder.image_side) == ("run", 32, SIDE)
    image_BHWC = images()
    with torch.no_grad():
        vector_BD = module.vit((image_BHWC.permute(0, 3, 1, 2) / 255 - module.mean) / module.std)
        again = timm.create_model(f"local-dir:{tmp_path / 'run' / 'model'}", pretrained=True).eval()
        torch.testing.assert_close(again(torch.ones(1, 3, SIDE, SIDE)), module.vit(torch.ones(1, 3, SIDE, SIDE)))
    found = encoder.encode_images([Image.fromarray(one) for one in image_BHWC.numpy()])
    np.testing.assert_allclose(found, nn.functional.normalize(vector_BD, dim=-1).numpy(), atol=1e-5)
    assert encoder.encode_images([]).shape == (0, 32)
    with pytest.raises(RaylabError, match="run embeds pictures alone"):
        encoder.encode_texts(["a"])


WORDS = Vocabulary(size=20, pad=0, start=1, end=2)


def writer(seed: int = 0) -> CaptionDecoder:
    torch.manual_seed(seed)
    decoder = CaptionDecoder(CaptionShape(width=16, layers=2, heads=2, length=7), WORDS, image_width=12)
    scattered(decoder)
    return decoder.eval()


def test_a_token_is_foretold_from_those_before_and_the_picture() -> None:
    decoder = writer()
    image_BLD, token_BT = torch.randn(2, 5, 12), torch.tensor([[1, 5, 6, 7, 2, 0], [1, 8, 2, 0, 0, 0]])
    before = decoder(image_BLD, token_BT)
    later = token_BT.clone()
    later[:, 3:] = 9
    torch.testing.assert_close(decoder(image_BLD, later)[:, :3], before[:, :3])
    assert not torch.allclose(decoder(image_BLD, later)[:, 3], before[:, 3])
    changed = image_BLD.clone()
    changed[0, 4] += 1
    assert not torch.allclose(decoder(changed, token_BT)[0, 0], before[0, 0])
    torch.testing.assert_close(decoder(changed, token_BT)[1], before[1])


def test_the_captions_loss_is_that_of_numpy_in_float64() -> None:
    decoder, token_BT = writer(), torch.tensor([[1, 5, 6, 7, 2, 0], [1, 8, 2, 0, 0, 0]])
    logit_BTV = decoder(torch.randn(2, 5, 12), token_BT)
    loss_BT, counts_BT = decoder.token_losses(logit_BTV, token_BT)
    logit = logit_BTV.detach().numpy().astype(np.float64)
    expected, right = [], []
    for row, length in ((0, 5), (1, 3)):
        for at in range(length - 1):
            wanted = int(token_BT[row, at + 1])
            expected.append(np.log(np.exp(logit[row, at]).sum()) - logit[row, at, wanted])
            right.append(logit[row, at].argmax() == wanted)
    assert int(counts_BT.sum()) == len(expected) == 6
    assert (loss_BT.sum() / counts_BT.sum()).item() == pytest.approx(np.mean(expected), rel=1e-5)
    shares = decoder.right_shares(logit_BTV, token_BT).tolist()
    assert shares == pytest.approx([np.mean(right[:4]), np.mean(right[4:])])
    assert decoder.right_shares(logit_BTV, torch.zeros(2, 6, dtype=torch.int64)).isnan().all()


def test_it_writes_the_likeliest_word_each_time_until_the_end() -> None:
    decoder, image_BLD = writer(), torch.randn(6, 5, 12)
    written_BT = decoder.write(image_BLD)
    for row, tokens in enumerate(written_BT.tolist()):
        expected = [WORDS.start]
        while len(expected) < 7 and expected[-1] != WORDS.end:
            logit_TV = decoder(image_BLD[row : row + 1], torch.tensor([expected]))[0]
            expected.append(int(logit_TV[-1].argmax()))
        assert tokens == expected + [WORDS.pad] * (7 - len(expected))
    submitted: list[int] = []
    assert torch.equal(decoder.write(image_BLD, lambda: submitted.append(1)), written_BT)
    assert len(submitted) == 6
