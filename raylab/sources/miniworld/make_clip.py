"""Makes the small CLIP that ships with the mini-world, from noisy pairs alone.

    python -m raylab.sources.miniworld.make_clip --out raylab/sources/miniworld/assets/clip

It is an open_clip model (a ModifiedResNet and a text transformer, contrastive loss) that sees what a web CLIP would:
the pictures and the alt-texts of worlds whose seeds no test or figure uses, never the truth. It learns names and
descriptions ("Lima: capital of Peru" against "Signal flag Lima: maritime signal flag") from the captions that carry
them.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raylab.errors import RaylabError
from raylab.sources.miniworld.entities import ENTITIES
from raylab.sources.miniworld.samples import picture, sample

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SHIPPED = Path(__file__).parent / "assets" / "clip"
"""The folder of the CLIP that comes with the package."""

IMAGE_SIZE = 64
"""Pixels of the network's input."""

_LOWEST_SEED = 1000
_TASK_ROWS = 500
_PAD, _START, _END = "<pad>", "<start>", "<end>"


@dataclass(frozen=True)
class ClipRecipe:
    """How the shipped CLIP is made."""

    out: Path = SHIPPED
    """The folder to write."""
    first_seed: int = 1000
    """The worlds first_seed, first_seed + 1, ... are trained on; 1000 or more keeps clear of tests and figures."""
    worlds: int = 4
    """How many worlds."""
    rows_per_world: int = 30_000
    """Pictures in each; 12 KB of memory a picture."""
    epochs: int = 3
    """Passes over the pairs: about 20 minutes on one core."""
    batch: int = 128
    """Small, because the number of steps is what a short training lacks, not negatives among 222 entities."""
    learning_rate: float = 2e-3
    """AdamW's, at its highest."""
    weight_decay: float = 0.05
    """Of matrices; biases, norms and the temperature are left alone."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises; it falls along a cosine after."""
    vocabulary: int = 4096
    """Tokens, at most."""
    processes: int = 2
    """Painters, and threads of the training (on a busy machine 1 trains faster)."""
    seed: int = 0
    """Of the weights and of the order of the pairs."""

    def __post_init__(self) -> None:
        if self.first_seed < _LOWEST_SEED:
            raise RaylabError(
                f"first_seed={self.first_seed}: worlds below {_LOWEST_SEED} are for tests and figures, "
                f"take {_LOWEST_SEED} or more"
            )
        if self.worlds * self.rows_per_world < 2 * self.batch:
            raise RaylabError(f"{self.worlds} x {self.rows_per_world} pairs do not fill two batches of {self.batch}")


@dataclass(frozen=True)
class Pairs:
    """Training pairs in memory."""

    pixels: np.ndarray
    """(N, IMAGE_SIZE, IMAGE_SIZE, 3) uint8."""
    captions: list[str]
    """N texts, none of them empty."""


def _paint(task: tuple[int, int, int]) -> tuple[np.ndarray, list[str]]:
    seed, start, stop = task
    rows = [row for row in (sample(seed, i) for i in range(start, stop)) if row.caption.text.strip()]
    pixels = [np.asarray(shrink(picture(row))) for row in rows]
    return np.stack(pixels), [row.caption.text for row in rows]


def shrink(image: Any) -> Any:
    """Average a scene's pixels down to the network's input, close to what a JPEG decoder's scaling gives."""
    return image.reduce(image.width // IMAGE_SIZE)


def make_pairs(recipe: ClipRecipe) -> Pairs:
    """Paint the worlds of the recipe; rows with an empty caption are left out."""
    tasks = [
        (recipe.first_seed + world, start, min(start + _TASK_ROWS, recipe.rows_per_world))
        for world in range(recipe.worlds)
        for start in range(0, recipe.rows_per_world, _TASK_ROWS)
    ]
    with multiprocessing.get_context("spawn").Pool(recipe.processes) as pool:
        parts = pool.map(_paint, tasks, chunksize=4)
    return Pairs(np.concatenate([pixels for pixels, _ in parts]), [text for _, texts in parts for text in texts])


def entity_texts() -> list[str]:
    """The texts that selection compares pictures with: every entity's ``title: description``."""
    return [f"{entity.title}: {entity.description}" for entity in ENTITIES]


def make_tokenizer(captions: list[str], vocabulary: int) -> Any:
    """Train a lower-case byte-pair tokenizer on captions and the catalogue's texts.

    The end token has the highest number: CLIP's text tower finds it by that.

    Returns:
        A transformers ``PreTrainedTokenizerFast``.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE(unk_token=None, byte_fallback=False))
    bpe.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()])
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("_", "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 3, min_frequency=10, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([*captions, *entity_texts() * 10], trainer)
    bpe.add_special_tokens([_PAD, _START, _END])
    ends = [(token, bpe.token_to_id(token)) for token in (_START, _END)]
    bpe.post_processor = processors.TemplateProcessing(single=f"{_START} $A {_END}", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=_PAD, bos_token=_START, eos_token=_END)


def model_config(vocabulary: int) -> dict[str, Any]:
    """The open_clip configuration of the small CLIP."""
    return {
        "embed_dim": 128,
        "vision_cfg": {"image_size": IMAGE_SIZE, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64},
        "text_cfg": {
            "context_length": 32,
            "vocab_size": vocabulary,
            "hf_tokenizer_name": "miniworld",
            "width": 96,
            "heads": 3,
            "layers": 2,
        },
    }


def _tokens(tokenizer: Any, texts: list[str], context: int) -> np.ndarray:
    found = tokenizer(texts, max_length=context, padding="max_length", truncation=True)
    return np.array(found["input_ids"], np.int64)


def _encode_texts(model: Any, token_BL: Tensor) -> Tensor:
    """The text tower on four batches of like length, so that little padding is computed."""
    import torch

    order = token_BL.argmax(dim=-1).argsort()
    parts = []
    for chosen in order.chunk(4):
        length = int(token_BL[chosen].argmax(dim=-1).max()) + 1
        shorter = {
            "positional_embedding": model.positional_embedding[:length],
            "attn_mask": model.attn_mask[:length, :length],
        }
        kwargs = {"text": token_BL[chosen, :length]}
        parts.append(torch.func.functional_call(model, shorter, kwargs=kwargs)[1])
    return torch.cat(parts)[order.argsort()]


def _augment(pixel_BHWC: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 pictures as the network's input: each moved by up to 4 pixels, its light and contrast changed a little."""
    import torch
    from torch.nn.functional import pad

    image_BCHW = pixel_BHWC.permute(0, 3, 1, 2).float() / 255
    dx, dy = torch.randint(0, 9, (2,), generator=generator).tolist()
    image_BCHW = pad(image_BCHW, (4, 4, 4, 4), mode="replicate")[..., dy : dy + IMAGE_SIZE, dx : dx + IMAGE_SIZE]
    gain, shift = torch.randn(2, len(image_BCHW), 1, 1, 1, generator=generator) * 0.08
    return normalise(image_BCHW * (1 + gain) + shift)


def normalise(image_BCHW: Tensor) -> Tensor:
    """Pictures in 0..1 as the network wants them: open_clip's mean and deviation, channels last."""
    import torch
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    mean, deviation = (torch.tensor(values)[:, None, None] for values in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    return ((image_BCHW - mean) / deviation).contiguous(memory_format=torch.channels_last)


def _batches(count: int, recipe: ClipRecipe, rng: np.random.Generator) -> Iterator[np.ndarray]:
    for _ in range(recipe.epochs):
        order = rng.permutation(count)
        for start in range(0, count - recipe.batch + 1, recipe.batch):
            yield order[start : start + recipe.batch]


def _optimizer(model: Any, recipe: ClipRecipe) -> Any:
    import torch

    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))


def _rate(step: int, steps: int, warmup: float) -> float:
    """The share of the learning rate at `step`."""
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def train(pairs: Pairs, tokenizer: Any, recipe: ClipRecipe) -> Any:
    """Train with the symmetric contrastive loss of CLIP, in bfloat16 where the processor multiplies it.

    Returns:
        The open_clip model in evaluation mode.
    """
    import torch
    from open_clip.model import CLIP

    torch.manual_seed(recipe.seed)
    torch.set_num_threads(recipe.processes)
    config = model_config(len(tokenizer))
    token_NL = torch.from_numpy(_tokens(tokenizer, pairs.captions, config["text_cfg"]["context_length"]))
    pixel_NHWC = torch.from_numpy(pairs.pixels)
    model = CLIP(**config).to(memory_format=torch.channels_last).train()
    optimizer = _optimizer(model, recipe)
    steps = recipe.epochs * (len(pairs.captions) // recipe.batch)
    generator = torch.Generator().manual_seed(recipe.seed)
    began = time.monotonic()
    for step, chosen in enumerate(_batches(len(pairs.captions), recipe, np.random.default_rng(recipe.seed))):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _rate(step, steps, recipe.warmup)
        at = torch.from_numpy(chosen)
        loss = _loss(model, _augment(pixel_NHWC[at], generator), token_NL[at])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        if step % 50 == 0 or step == steps - 1:
            spent = time.monotonic() - began
            print(f"step {step + 1}/{steps}  loss {loss.item():.3f}  {spent:.0f} s", file=sys.stderr, flush=True)
    return model.eval()


def _loss(model: Any, image_BCHW: Tensor, token_BL: Tensor) -> Tensor:
    import torch
    from torch.nn.functional import cross_entropy, normalize

    with torch.autocast("cpu", torch.bfloat16):
        image_BD = model.encode_image(image_BCHW)
        text_BD = _encode_texts(model, token_BL)
    logit_BB = model.logit_scale.exp() * normalize(image_BD.float(), dim=-1) @ normalize(text_BD.float(), dim=-1).T
    target_B = torch.arange(len(logit_BB))
    return (cross_entropy(logit_BB, target_B) + cross_entropy(logit_BB.T, target_B)) / 2


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the model as open_clip reads it from ``local-dir:``; weights in half precision."""
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    preprocess = {"mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD, "interpolation": "bicubic"}
    config = {"model_cfg": model_config(len(tokenizer)), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Paint the pairs, train, write the folder."""
    import tyro

    recipe = tyro.cli(ClipRecipe, description=__doc__)
    began = time.monotonic()
    pairs = make_pairs(recipe)
    print(f"{len(pairs.captions)} pairs painted in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    tokenizer = make_tokenizer(pairs.captions, recipe.vocabulary)
    save(train(pairs, tokenizer, recipe), tokenizer, recipe.out)


if __name__ == "__main__":
    main()
