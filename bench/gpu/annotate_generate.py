"""Generated tokens/s of a Qwen2-VL with random weights under transformers' generate, by batch: to size the recipes.

    python bench/gpu/annotate_generate.py [2b|7b|tiny] [answer tokens]       # one JSON line; tiny runs on a CPU too

Weights cannot be had offline and do not matter to speed. Each request is as an annotation's: 350 prompt tokens (rew-1
with its summary and caption), a picture of 256 tokens (448 x 448 pixels), 128 tokens of answer that no end token
cuts short. Rounds are interleaved over the batch sizes; medians are reported, with every round.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time

import torch
import transformers
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

SIZES = {
    "tiny": ({"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}, 2, 2, 32),
    "2b": ({"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28}, 12, 32, 1280),
    "7b": ({"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28}, 28, 32, 1280),
}
"""Text model, its heads, layers and width of the vision tower: those of the published models."""
SECTIONS = {"tiny": [4, 6, 6], "2b": [16, 24, 24], "7b": [16, 24, 24]}
KEY_HEADS = {"tiny": 2, "2b": 2, "7b": 4}
PATCH, MERGE, SIDE = 14, 2, 448
PROMPT_TOKENS = 350
BATCHES = {"tiny": (1, 4), "2b": (1, 8, 32, 64, 128), "7b": (1, 8, 32, 64)}
ROUNDS = 3


def make_model(size: str, device: str) -> Qwen2VLForConditionalGeneration:
    """Build the model on the device, in bfloat16 on a GPU."""
    text, heads, depth, width = SIZES[size]
    config = Qwen2VLConfig(
        text_config=text
        | {
            "vocab_size": 152064,
            "num_attention_heads": heads,
            "num_key_value_heads": KEY_HEADS[size],
            "rope_parameters": {"rope_type": "default", "mrope_section": SECTIONS[size], "rope_theta": 1e6},
        },
        vision_config={
            "depth": depth,
            "embed_dim": width,
            "num_heads": max(2, width // 80),
            "hidden_size": text["hidden_size"],
        },
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    with torch.device(device):
        return Qwen2VLForConditionalGeneration(config).eval()


def make_batch(model: Qwen2VLForConditionalGeneration, count: int, device: str) -> dict[str, torch.Tensor]:
    """Build `count` requests: words, a picture's tokens, words."""
    config = model.config
    patches = (SIDE // PATCH) ** 2
    picture = torch.full((patches // MERGE**2,), config.image_token_id)
    words = torch.randint(1000, 20000, (PROMPT_TOKENS,), generator=torch.Generator().manual_seed(1))
    half = PROMPT_TOKENS // 2
    starts, ends = torch.tensor([config.vision_start_token_id]), torch.tensor([config.vision_end_token_id])
    row = torch.cat([words[:half], starts, picture, ends, words[half:]])
    ids = row.repeat(count, 1).to(device)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == config.image_token_id).long(),
        "pixel_values": torch.randn(count * patches, 3 * 2 * PATCH**2, device=device, dtype=model.dtype),
        "image_grid_thw": torch.tensor([[1, SIDE // PATCH, SIDE // PATCH]] * count, device=device),
    }


@torch.inference_mode()
def measure(model: Qwen2VLForConditionalGeneration, count: int, answer: int, device: str) -> float:
    """Return generated tokens/s of one batch, prompt and picture included in the time."""
    batch = make_batch(model, count, device)
    _wait(device)
    started = time.perf_counter()
    out = model.generate(**batch, max_new_tokens=answer, min_new_tokens=answer, do_sample=False)
    _wait(device)
    made = out.shape[1] - batch["input_ids"].shape[1]
    assert made == answer, f"{made} tokens instead of {answer}"
    return count * made / (time.perf_counter() - started)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main(size: str = "2b", answer: int = 128) -> None:
    """Measure in turn and print the JSON."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = make_model(size, device)
    measure(model, 1, 8, device)  # warm up
    rounds = [{str(n): measure(model, n, answer, device) for n in BATCHES[size]} for _ in range(ROUNDS)]
    medians = {n: round(statistics.median(one[n] for one in rounds), 1) for n in rounds[0]}
    result = {
        "figure": "generated tokens/s by batch",
        "tokens_per_s": medians,
        "rows_per_s": {n: round(rate / answer, 2) for n, rate in medians.items()},
        "size": size,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "prompt_tokens": PROMPT_TOKENS + (SIDE // PATCH // MERGE) ** 2 + 2,
        "answer_tokens": answer,
        "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if device == "cuda" else None,
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "rounds": rounds,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))
