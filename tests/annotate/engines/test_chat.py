from __future__ import annotations

import pytest
from annotate.engines.asked import request
from annotate.tiny_vlm import CHAT_TEMPLATE

from raylab.annotate.engines.chat import Template
from raylab.errors import RaylabError

PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
STRINGS = """{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}
[{{ m.role }}] {{ m.content }}
{% endfor %}[assistant]"""


@pytest.fixture
def with_template(tiny_vlm, tmp_path):
    """The tiny model's words with another template."""

    def make(template: str | None):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(tiny_vlm)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path)
        return Template(str(tmp_path))

    return make


def test_a_picture_stands_between_the_words(tiny_vlm):
    template = Template(str(tiny_vlm))
    assert template.prompt(request(3)) == (
        "<|im_start|>system\nbe brief<|im_end|>\n"
        f"<|im_start|>user\nlook at this{PICTURE}what is number 3<|im_end|>\n<|im_start|>assistant\n"
    )
    assert template.stop_tokens >= {2}


def test_what_is_empty_is_left_out(tiny_vlm):
    asked = request(3, image=b"", system="", before="")
    assert Template(str(tiny_vlm)).prompt(asked) == (
        "<|im_start|>user\nwhat is number 3<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_template_of_strings_without_a_system_role(with_template):
    prompt = with_template(STRINGS).prompt(request(3, image=None))
    assert " ".join(prompt.split()) == "[user] be brief look at this what is number 3 [assistant]"


def test_a_picture_without_a_place_is_an_error_with_a_way_out(with_template):
    with pytest.raises(RaylabError, match=r"no place for a picture.*vllm serve"):
        with_template(STRINGS).prompt(request(3))


def test_a_model_without_a_template_is_an_error(with_template):
    with pytest.raises(RaylabError, match="no chat template"):
        with_template(None)


def test_the_first_token_is_not_doubled(tiny_vlm, tmp_path):
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_vlm)
    tokenizer.bos_token, tokenizer.chat_template = "<|endoftext|>", "{{ bos_token }}" + CHAT_TEMPLATE
    first = ("<|endoftext|>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{first[0]} $A", special_tokens=[first])
    tokenizer.save_pretrained(tmp_path)
    assert Template(str(tmp_path)).prompt(request(3, image=None)).startswith("<|im_start|>system")
