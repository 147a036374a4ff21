"""Any open_clip model as two functions: images to unit vectors, texts to unit vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from raylab.errors import RaylabError
from raylab.models.weights import ClipFiles, find_clip

if TYPE_CHECKING:
    import torch
    from PIL import Image


@dataclass(frozen=True)
class ClipConfig:
    """Which CLIP, and how it is run."""

    name: str = "ViT-B-32"
    """An open_clip architecture, ``hf-hub:owner/model``, or a folder that holds open_clip_config.json."""
    pretrained: str | None = "laion2b_s34b_b79k"
    """For an architecture: the tag of its weights or the path of a checkpoint. Must be null for a folder or the hub."""
    precision: str | None = None
    """``fp32``, ``fp16`` or ``bf16``; null: fp16 on a GPU, fp32 on a CPU."""
    threads: int | None = None
    """CPU threads of torch in this process; null leaves torch's own setting."""
    batch: int = 64
    """Images or texts that go through the network at once."""

    def load(self, device: str = "cpu") -> ClipEncoder:
        """Return the encoder; see `ClipEncoder.load`."""
        return ClipEncoder.load(
            self.name, self.pretrained, device, threads=self.threads, precision=self.precision, batch=self.batch
        )


class ClipEncoder:
    """A CLIP in evaluation mode. Make one with `ClipEncoder.load`.

    Attributes:
        id: the model's name, for the evidence in a label: ``ViT-B-32/laion2b_s34b_b79k``, or a folder's name.
        revision: 12 hex digits, hashed from the files that make the model: weights, a folder's config and tokenizer.
        dim: length of a vector.
        image_side: pixels of the network's input on its longer side: what `open_image` may scale a JPEG down to.
        logit_scale: the model's own inverse temperature, by which its cosines were multiplied in training.
        batch: images or texts that go through the network at once.
    """

    def __init__(self, model: Any, tokenizer: Any, origin: ClipFiles, precision: str, batch: int) -> None:
        import open_clip
        import torch
        from open_clip.transform import PreprocessCfg, image_transform_v2
        from torchvision.transforms import Normalize

        self.id = origin.id
        self.revision = origin.revision
        self.logit_scale = float(model.logit_scale.detach().float().exp())
        self._model = model
        self._tokenizer = tokenizer
        self.batch = batch
        self._device = next(model.parameters()).device
        self._dtype = open_clip.get_input_dtype(precision) or torch.float32
        config = PreprocessCfg(**model.visual.preprocess_cfg)
        self.image_side = config.size if isinstance(config.size, int) else max(config.size)
        # open_clip's transform ends with "to tensor, normalise". Those two are done here for the whole batch on the
        # device, so that only bytes cross to it; the values are the same.
        *self._geometry, _, last = image_transform_v2(config, is_train=False).transforms
        if not isinstance(last, Normalize):
            raise TypeError(f"open_clip's transform ends with {type(last).__name__}: this open_clip is not supported")
        self._normalise = last
        self._trims_texts = _may_trim(model)
        self.dim = int(self._encode_tokens(tokenizer(["a"])).shape[1])

    @classmethod
    def load(
        cls,
        name: str,
        pretrained: str | None = None,
        device: str = "cpu",
        *,
        threads: int | None = None,
        precision: str | None = None,
        batch: int = 64,
    ) -> ClipEncoder:
        """Load a model with its weights.

        Args:
            name: an open_clip architecture (``ViT-B-32``), ``hf-hub:owner/model``, or a local folder with
                open_clip_config.json, weights and tokenizer (with or without open_clip's ``local-dir:`` prefix).
            pretrained: for an architecture, the tag of its weights or a checkpoint's path; null otherwise.
            device: ``cpu``, ``cuda``, ``cuda:1``.
            threads: CPU threads of torch, set for the whole process; null leaves them alone.
            precision: ``fp32``, ``fp16``, ``bf16``; null: fp16 on a GPU (three more bits of mantissa than bf16, which
                a cosine needs), fp32 on a CPU.
            batch: images or texts that go through the network at once.

        Raises:
            RaylabError: for an unknown name or tag (naming the nearest), missing or broken weights (saying how to get
                them), a device that is not there.
        """
        import open_clip
        import torch

        _check_device(device)
        if threads is not None:
            torch.set_num_threads(threads)
        precision = precision or ("fp32" if torch.device(device).type == "cpu" else "fp16")
        origin = find_clip(name, pretrained)
        try:
            model = open_clip.create_model(
                origin.name, pretrained=origin.pretrained, precision=precision, device=device, require_pretrained=True
            )
            tokenizer = open_clip.get_tokenizer(origin.name)
        except Exception as error:  # open_clip, safetensors, torch and transformers each raise their own kinds
            raise RaylabError(
                f"CLIP {origin.id}: cannot be loaded from {origin.weights} ({type(error).__name__}: {error}). "
                "The files may be damaged, or belong to another architecture."
            ) from error
        model.eval().requires_grad_(False)
        model.visual.to(memory_format=torch.channels_last)
        return cls(model, tokenizer, origin, precision, batch)

    def preprocess(self, image: Image.Image) -> np.ndarray:
        """Return the image resized and cropped as open_clip's own evaluation transform does.

        Args:
            image: RGB, of any size.

        Returns:
            uint8 [height, width, 3], not yet normalised.
        """
        for step in self._geometry:
            image = step(image)
        return np.asarray(image)

    def encode_images(self, images: Sequence[Image.Image | np.ndarray]) -> np.ndarray:
        """Embed images.

        Args:
            images: RGB images, or what `preprocess` made of them.

        Returns:
            float32 [n, dim], rows of length 1.

        Raises:
            FloatingPointError: the network's output is not finite.
        """
        import torch

        pixels = [image if isinstance(image, np.ndarray) else self.preprocess(image) for image in images]
        parts = []
        for start in range(0, len(pixels), self.batch):
            image_BHWC = torch.from_numpy(np.stack(pixels[start : start + self.batch]))
            parts.append(self._encode_pixels(image_BHWC))
        return np.concatenate(parts) if parts else np.empty((0, self.dim), np.float32)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts; what does not fit the model's context is cut off.

        Returns:
            float32 [n, dim], rows of length 1.

        Raises:
            FloatingPointError: the network's output is not finite.
        """
        if not texts:
            return np.empty((0, self.dim), np.float32)
        token_NL = self._tokenizer(list(texts))
        # Texts of like length go together, so that the trimmed batches hold little padding.
        order = _lengths(token_NL).argsort().numpy()
        vectors = np.empty((len(texts), self.dim), np.float32)
        for start in range(0, len(order), self.batch):
            chosen = order[start : start + self.batch]
            vectors[chosen] = self._encode_tokens(token_NL[chosen])
        return vectors

    def _encode_pixels(self, image_BHWC: torch.Tensor) -> np.ndarray:
        import torch

        with torch.inference_mode():
            image_BCHW = image_BHWC.to(self._device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
            image_BCHW = self._normalise(image_BCHW).to(self._dtype).contiguous(memory_format=torch.channels_last)
            return self._checked(self._model.encode_image(image_BCHW))

    def _encode_tokens(self, token_BL: torch.Tensor) -> np.ndarray:
        import torch

        with torch.inference_mode():
            if not self._trims_texts:
                return self._checked(self._model.encode_text(token_BL.to(self._device)))
            length = int(_lengths(token_BL).max())
            shorter = {
                "positional_embedding": self._model.positional_embedding[:length],
                "attn_mask": self._model.attn_mask[:length, :length],
            }
            token_BL = token_BL[:, :length].to(self._device)
            outputs = torch.func.functional_call(self._model, shorter, kwargs={"text": token_BL})
            return self._checked(outputs[1])

    def _checked(self, feature_BD: torch.Tensor) -> np.ndarray:
        from torch.nn.functional import normalize

        vectors = normalize(feature_BD.float(), dim=-1).cpu().numpy()
        if not np.isfinite(vectors).all():
            raise FloatingPointError(f"CLIP {self.id}: not finite in {self._dtype}; set precision to bf16 or fp32")
        return vectors


def _lengths(token_BL: torch.Tensor) -> torch.Tensor:
    """Tokens of each text up to its end-of-text token, which CLIP's vocabularies give the highest number."""
    return token_BL.argmax(dim=-1) + 1


def _may_trim(model: Any) -> bool:
    """Whether tokens behind the end-of-text token cannot change a text's vector.

    So it is where attention is causal and the vector is read at that token: in CLIP itself, not in every descendant.
    An entity's "title: description" fills a fifth of the 77 tokens that CLIP pads to: this saves most of the work.
    """
    import open_clip

    return type(model) is open_clip.CLIP and model.attn_mask is not None and model.text_pool_type == "argmax"


def _check_device(device: str) -> None:
    import torch

    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise RaylabError(f"device {device!r}: torch sees no GPU here; set the device to 'cpu'.")
