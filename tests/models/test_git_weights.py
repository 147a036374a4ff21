from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from raylab.errors import RaylabError
from raylab.models.git import Git, GitConfig
from raylab.models.git_weights import OpenClipTokens, from_hugging_face

SHAPES = [
    {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image": (16, 4)},
    {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 96, "image": (24, 8)},
    {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 256, "image": (32, 16)},
]


def theirs(hidden_size, image, **shape):
    from transformers import GitConfig, GitForCausalLM, GitVisionConfig

    side, patch = image
    vision = GitVisionConfig(
        hidden_size=40, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4, image_size=side,
        patch_size=patch,
    )  # fmt: skip
    torch.manual_seed(hidden_size)
    config = GitConfig(
        vision_config=vision.to_dict(), vocab_size=50, hidden_size=hidden_size, max_position_embeddings=80,
        bos_token_id=1, eos_token_id=2, **shape,
    )  # fmt: skip
    model = GitForCausalLM(config)
    for parameter in model.parameters():  # far from the small initial values, biases too: a slip would be seen
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_logits_are_hugging_faces(shape):
    model = theirs(**shape)
    ours = from_hugging_face(model.config, model.state_dict()).eval()
    image = torch.randn(3, 3, shape["image"][0], shape["image"][0])
    text = torch.randint(3, 50, (3, 9))
    with torch.no_grad():
        expected = model(input_ids=text, pixel_values=image).logits[:, -5:]
        found = ours(image, text[:, :4], text[:, 4:])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_logits_are_hugging_faces_whatever_is_padded(shape):
    """Theirs pads one text behind; ours pads the question and the answer, each for itself."""
    model = theirs(**shape)
    ours = from_hugging_face(model.config, model.state_dict()).eval()
    image = torch.randn(4, 3, shape["image"][0], shape["image"][0])
    questions, answers = (3, 1, 5, 0), (2, 6, 1, 4)
    context, target = torch.zeros(4, 5, dtype=torch.int64), torch.zeros(4, 6, dtype=torch.int64)
    text = torch.zeros(4, 11, dtype=torch.int64)
    for row, (question, answer) in enumerate(zip(questions, answers)):
        words = torch.randint(3, 50, (question + answer,))
        context[row, :question], target[row, :answer] = words[:question], words[question:]
        text[row, : len(words)] = words
    with torch.no_grad():
        expected = model(input_ids=text, attention_mask=(text != 0).long(), pixel_values=image).logits
        found = ours(image, context, target)
    images = expected.shape[1] - text.shape[1]
    for row, (question, answer) in enumerate(zip(questions, answers)):
        wanted = expected[row, images + question : images + question + answer]
        torch.testing.assert_close(found[row, :answer], wanted, atol=1e-5, rtol=1e-5)


def test_weights_that_do_not_fit_are_said():
    model = theirs(**SHAPES[0])
    state = model.state_dict()
    del state["git.encoder.layer.1.attention.self.key.weight"]
    with pytest.raises(RaylabError, match="do not fit"):
        from_hugging_face(model.config, state)
    with pytest.raises(RaylabError, match="something"):
        from_hugging_face(model.config, model.state_dict() | {"something": torch.zeros(1)})


@pytest.mark.parametrize(("setting", "value"), [("num_image_with_embedding", 6), ("hidden_act", "relu")])
def test_checkpoints_of_another_kind_are_refused(setting, value):
    model = theirs(**SHAPES[0])
    setattr(model.config, setting, value)
    with pytest.raises(RaylabError, match=setting):
        from_hugging_face(model.config, model.state_dict())


def test_position_counts_of_old_checkpoints_are_ignored():
    model = theirs(**SHAPES[0])
    old = {"git.embeddings.position_ids": torch.arange(80)[None]}
    assert isinstance(from_hugging_face(model.config, model.state_dict() | old), Git)


def towers():
    import open_clip

    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    resnet = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    timm = {"image_size": 32, "timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "token"}
    convolutional = timm | {"timm_model_name": "test_convnext", "timm_pool": "avg"}
    text = {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}
    for config in (vision, resnet, timm, convolutional):
        torch.manual_seed(0)
        yield open_clip.CustomTextCLIP(16, json.loads(json.dumps(config)), text).visual


@pytest.mark.parametrize("number", range(4))
def test_open_clips_towers_become_encoders_without_idle_parameters(number):
    encoder = OpenClipTokens(list(towers())[number])
    side = 160 if number >= 2 else 32  # what timm's tiny nets are made for
    image = torch.randn(2, 3, side, side)
    config = GitConfig(image_width=encoder.width, vocab=30, width=16, layers=1, heads=2, context=2, target=4)
    git = Git(config, encoder).train()
    tokens = encoder(image)
    assert tokens.shape[0] == 2 and tokens.shape[2] == encoder.width and tokens.ndim == 3
    target = torch.tensor([[1, 5, 6, 2], [1, 7, 2, 0]])
    git.loss(git(image, torch.tensor([[3, 4], [5, 0]]), target), target).backward()
    idle = [name for name, parameter in git.named_parameters() if parameter.grad is None]
    assert idle == []


def test_a_transformers_tokens_are_those_that_its_vector_is_read_from():
    tower = next(iter(towers()))
    image = torch.randn(2, 3, 32, 32)
    projection = tower.proj
    expected = tower(image)
    token_BND = OpenClipTokens(tower)(image)
    assert token_BND.shape == (2, 17, 32)
    torch.testing.assert_close(token_BND[:, 0] @ projection, expected)


def test_a_resnets_tokens_are_those_that_its_pooling_attends_to():
    tower = list(towers())[1].eval()
    image = torch.randn(2, 3, 32, 32)
    expected, pool = tower(image), tower.attnpool
    token_BND = OpenClipTokens(tower)(image)
    assert token_BND.shape == (2, 2, 256)  # the mean, and the only place of a map of 1 x 1
    looked_at = ((pool.q_proj, token_BND[:, :1]), (pool.k_proj, token_BND), (pool.v_proj, token_BND))
    heads = [project(x).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2) for project, x in looked_at]
    attended = torch.nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    torch.testing.assert_close(pool.c_proj(attended)[:, 0], expected)


def test_an_encoder_that_is_not_known_is_refused():
    with pytest.raises(RaylabError, match="encoder of your own"):
        OpenClipTokens(nn.Linear(2, 2))
