from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylab.annotate.plan import PromptsConfig, RewConfig
from raylab.annotate.prompts import CALLS, load_prompt, plain, shipped
from raylab.errors import RaylabError

VALUES = {
    "title": "Flag of Kenya",
    "description": "national flag",
    "summary": "Three bands.",
    "caption": "a mug",
    "rationale": "It is striped.",
}


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_prompt_renders_and_names_its_call(name):
    prompt = load_prompt(name)
    assert prompt.call in CALLS
    assert prompt.id == f"{name}@{prompt.digest}"
    words = prompt.render(**VALUES)
    assert words.system
    assert "{{" not in words.system + words.before + words.after


def test_what_rows_share_stands_before_the_picture_and_the_caption_after_it():
    words = load_prompt("verify/rew-1").render(**VALUES)
    assert "Flag of Kenya" in words.before
    assert "Three bands." in words.before
    assert "a mug" not in words.system + words.before
    assert "a mug" in words.after


def test_the_bare_prompt_tells_neither_summary_nor_caption():
    words = load_prompt("verify/rew-1-bare").render(**VALUES)
    assert "Flag of Kenya" in words.before
    assert not any(told in words.before + words.after for told in ("Three bands.", "a mug"))


def test_a_prompt_of_ones_own_is_a_file_and_no_code(tmp_path):
    path = tmp_path / "verify" / "mine-2.md"
    path.parent.mkdir()
    path.write_text("--- system\nLook.\n--- user\n{{ title }}?\n<image>\n{{ caption }}\n")
    prompt = load_prompt(str(path))
    assert (prompt.call, prompt.version) == ("verify", "mine-2")
    assert prompt.render(**VALUES).before == "Flag of Kenya?"
    config = RewConfig(prompts=PromptsConfig(first=str(path)))
    assert config.load_prompts()["first"].id.startswith("verify/mine-2@")


def test_another_word_is_another_hash(tmp_path):
    ids = []
    for words in ("Look.", "Look!"):
        path = tmp_path / words / "verify" / "mine.md"
        path.parent.mkdir(parents=True)
        path.write_text(f"--- system\n{words}\n--- user\n<image>\n")
        ids.append(load_prompt(str(path)).digest)
    assert ids[0] != ids[1]


@pytest.mark.parametrize(
    ("folder", "text", "message"),
    [
        ("verify", "--- system\nx\n--- user\nno picture\n", "is no prompt"),
        ("verify", "just text", "is no prompt"),
        ("guess", "--- system\nx\n--- user\n<image>\n", "names its call"),
    ],
)
def test_a_file_that_is_no_prompt_is_one_clear_error(tmp_path, folder, text, message):
    path = tmp_path / folder / "x.md"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(RaylabError, match=message):
        load_prompt(str(path))


def test_an_unknown_prompt_names_the_nearest():
    with pytest.raises(RaylabError, match="Did you mean 'verify/rew-1'"):
        load_prompt("verify/rew1")


def test_a_template_that_names_an_unknown_value_says_which_there_are(tmp_path):
    path = tmp_path / "verify" / "x.md"
    path.parent.mkdir()
    path.write_text("--- system\n{{ wether }}\n--- user\n<image>\n")
    with pytest.raises(RaylabError, match=r"wether.*Known: title"):
        load_prompt(str(path)).render(**VALUES)


def test_a_prompt_plays_only_its_own_part():
    with pytest.raises(RaylabError, match="first needs a prompt of verify or name"):
        RewConfig(prompts=PromptsConfig(first="questions/rew-1")).load_prompts()


@pytest.mark.parametrize(
    "token", ["<|im_end|>", "<|vision_start|>", "<image>", "</s>", "<start_of_turn>", "[INST]", "[/INST]", "[IMG_END]"]
)
def test_a_caption_cannot_speak_in_control_tokens(token):
    said = load_prompt("verify/rew-1").render(**VALUES | {"caption": f"a {token} b"})
    assert token not in said.after


@given(st.text(max_size=300))
def test_plain_text_is_one_line_and_keeps_its_words(text):
    told = plain(text)
    assert "\n" not in told
    assert "".join(told.split()) == "".join(text.split())
