"""The generative recogniser (arXiv 2410.23676): a picture and a question in, a name or a text out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from raylab.errors import RaylabError
from raylab.kb.catalog import Catalog
from raylab.kb.titles import open_codes
from raylab.models.beam import decode
from raylab.models.dual_encoder import DualEncoderConfig, blocks
from raylab.models.git_checkpoint import GitCheckpoint
from raylab.models.git_module import GitModule, GitShape
from raylab.models.text import Tokenizer, TokenizerConfig
from raylab.tasks.base import Arrays, Group, ImageInput, TaskContext, decay_groups
from raylab.tasks.dual import image_input

if TYPE_CHECKING:
    from torch import Tensor, nn

    from raylab.models.class_table import ClassTable

ENTITY_QUESTIONS = (
    "what is the main object?",
    "what is the main object in the image?",
    "what is this?",
    "what is shown in the image?",
    "which entity is shown in the picture?",
    "what is the name of the main object?",
)
"""One is drawn for each row: GER's code has six of this kind (arXiv 2410.23676); the words are ours."""
SAMPLE_BEAMS = 4
"""Of the answers that are shown while a run goes on."""
RATIONALE_QUESTION = "explain what the image shows."
"""The rationale's task prefix; its words are ours."""


@dataclass(frozen=True)
class TargetsConfig:
    """What is learnt, and how much each part weighs; 0 leaves it out. The paper weighs them alike.

    A row that lacks a part adds nothing to its loss: of labels of which a tenth has rationales, these weigh a tenth.
    """

    entity: float = 1.0
    """The entity's name, for a generic question."""
    rationale: float = 1.0
    """The annotator's rationale, for a task prefix."""
    questions: float = 1.0
    """The answer to one of the annotator's questions."""

    def names(self) -> list[str]:
        """Return the parts that are learnt."""
        return [name for name in ("entity", "rationale", "questions") if getattr(self, name) > 0]


@dataclass(frozen=True)
class GitTask:
    """A GiT on annotated labels."""

    encoder: DualEncoderConfig = field(default_factory=lambda: DualEncoderConfig(name="ViT-L-14"))
    """Its vision tower is taken."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    shape: GitShape = field(default_factory=GitShape)
    targets: TargetsConfig = field(default_factory=TargetsConfig)
    crop: str = "inception"
    """See `tasks.base.ImageInput`."""
    codes: bool = False
    """Entities are learnt as GER's ALD codes instead of their names (arXiv 2403.02041)."""
    smoothing: float = 0.2
    """Of labels (arXiv 2410.23676)."""
    encoder_rate: float = 0.1
    """The encoder's learning rate, as a share of the decoder's (the paper: 1e-5 and 1e-4)."""
    pretrained: str = ""
    """Begin with a GIT of Hugging Face, such as microsoft/git-base, or a folder that holds one: its tower, decoder and
    tokenizer take the place of `encoder`, `tokenizer` and `shape`, of which the lengths of texts stay."""

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise RaylabError(f"task.smoothing={self.smoothing}: give a number from 0 to below 1.")
        if not self.targets.names():
            raise RaylabError("task.targets: all of them are 0, so there is nothing to learn.")

    @property
    def words(self) -> TokenizerConfig:
        """The tokenizer: a checkpoint brings its own."""
        return TokenizerConfig(self.pretrained) if self.pretrained else self.tokenizer

    @property
    def origin(self) -> DualEncoderConfig | GitCheckpoint:
        """What the network is made of."""
        return GitCheckpoint(self.pretrained) if self.pretrained else self.encoder

    def image(self) -> ImageInput:
        """Return the pictures that the network takes."""
        if self.pretrained:
            return ImageInput(GitCheckpoint(self.pretrained).preprocess["size"], self.crop)
        return image_input(self.encoder, self.crop)

    def build(self) -> GitModule:
        """Return the network."""
        if self.pretrained:
            return GitModule.of_checkpoint(GitCheckpoint(self.pretrained), self.shape)
        return GitModule.make(self.encoder, self.tokenizer, self.shape)

    def collator(self, context: TaskContext) -> TextCollator:
        """See `tasks.base.TaskConfig`."""
        return TextCollator(self, context)

    def learner(self, context: TaskContext) -> GitLearner:
        """See `tasks.base.TaskConfig`."""
        return GitLearner(self)


class TextCollator:
    """``context_BRC`` and ``target_BRT`` int64: a text for each part that is learnt; one that a row lacks is empty."""

    def __init__(self, config: GitTask, context: TaskContext) -> None:
        self.config, self.kb = config, context.kb
        self.image: ImageInput = config.image()
        self.tokenizer = Tokenizer(config.words)
        self.parts = config.targets.names()
        more = () if self.parts == ["entity"] else ("annotation",)
        self.columns: Sequence[str] = ("entity_id", "entity_name", *more)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_codes"}

    @cached_property
    def _codes(self) -> tuple[Catalog, np.ndarray]:
        catalog = Catalog.open(self.kb)
        return catalog, open_codes(catalog, self.tokenizer).code_EL

    def usable(self, rows: pa.Table) -> np.ndarray:
        """Rows that have at least one of the parts."""
        return np.logical_or.reduce(list(self.has(rows).values()))

    def has(self, rows: pa.Table) -> dict[str, np.ndarray]:
        """Return for each part that is learnt bool [n]: the rows that have it.

        An entity may be a name that no entity has (decoding handles it); with codes it has to be one.
        """
        return {part: self._has(part, rows).fill_null(False).to_numpy() for part in self.parts}

    def _has(self, part: str, rows: pa.Table) -> pa.ChunkedArray:
        if part == "entity":
            return rows["entity_id"].is_valid() if self.config.codes else _some(rows["entity_name"])
        if part == "rationale":
            return _some(pc.struct_field(rows["annotation"], "rationale"))
        return pc.greater(pc.list_value_length(pc.struct_field(rows["annotation"], "questions")), 0)

    def __call__(self, rows: pa.Table, draws: Sequence[np.random.Generator]) -> Arrays:
        """See `tasks.base.Collator`."""
        told = rows.select(list(self.columns)).to_pylist()
        texts = [[self._text(part, row, draw) for part in self.parts] for row, draw in zip(told, draws)]
        flat = [one for row in texts for one in row]
        shape, shapes = self.config.shape, (len(rows), len(self.parts), -1)
        questions = self.tokenizer.questions([question for question, _ in flat], shape.context)
        answers = self.tokenizer.answers([answer for _, answer in flat], shape.target)
        if self.config.codes and "entity" in self.parts:
            answers[self.parts.index("entity") :: len(self.parts)] = self._coded(rows)
        return {"context_BRC": questions.reshape(shapes), "target_BRT": answers.reshape(shapes)}

    def _coded(self, rows: pa.Table) -> np.ndarray:
        """Return the targets of the rows' entities: start and code, whose last slot needs no end behind it."""
        catalog, code_EL = self._codes
        row_B = catalog.rows(pc.fill_null(rows["entity_id"], "").combine_chunks())
        target_BT = np.full((len(rows), self.config.shape.target), self.tokenizer.pad)
        known_B = row_B >= 0
        target_BT[known_B, 0] = self.tokenizer.start
        target_BT[known_B, 1 : 1 + code_EL.shape[1]] = code_EL[row_B[known_B]]
        return target_BT

    def _text(self, part: str, row: dict[str, Any], draw: np.random.Generator) -> tuple[str, str | None]:
        """Return question and answer of a part, no answer where the row has none."""
        annotation = row.get("annotation") or {}
        if part == "entity":
            return ENTITY_QUESTIONS[draw.integers(len(ENTITY_QUESTIONS))], row["entity_name"]
        if part == "rationale":
            return RATIONALE_QUESTION, annotation.get("rationale")
        pairs = annotation.get("questions") or []
        if not pairs:
            return "", None
        pair = pairs[draw.integers(len(pairs))]
        return pair["question"], pair["answer"]


def _some(text: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.greater(pc.utf8_length(text), 0)


class GitLearner:
    """See `tasks.base.Learner`."""

    table: ClassTable | None = None

    def __init__(self, config: GitTask) -> None:
        self.config = config
        self._submit: Callable[[], None] | None = None
        self.module = config.build()

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """See `tasks.base.Learner`."""
        return batch["image_BHWC"], batch["context_BRC"], batch["target_BRT"]

    def losses(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parts' losses, their weighted sum, and ``with/PART``: the share of the rows that have a part.

        A part's loss is the mean over all rows, to which one that lacks the part adds 0: a row moves the network by as
        much whichever rows share its batch, its worker or its pass. Over ``with/PART`` it is the mean of its texts.
        """
        target_BRT = batch["target_BRT"]
        loss_BR, has_BR = self.module.git.text_losses(outputs["logit_BRTV"], target_BRT, self.config.smoothing)
        names, weights = self.config.targets.names(), self.config.targets
        parts = dict(zip(names, (loss_BR * has_BR).mean(0)))
        shares = {f"with/{name}": share for name, share in zip(names, has_BR.float().mean(0))}
        loss = torch.stack([getattr(weights, name) * part for name, part in parts.items()]).sum()
        return {"loss": loss, **parts, **shares}

    def groups(self) -> list[Group]:
        """Encoder and decoder, each with its rate; weight decay, where a run has any, is for matrices."""
        git = self.module.git
        decoder = [module for name, module in git.named_children() if name != "encoder"]
        return [
            *decay_groups(git.encoder, "encoder ", self.config.encoder_rate),
            *decay_groups(torch.nn.ModuleList(decoder), "decoder "),
        ]

    def shard_units(self) -> list[nn.Module]:
        """See `tasks.base.Learner`."""
        return [*blocks(self.module.git.encoder), *self.module.git.layers]

    def checkpoint_activations(self) -> None:
        """See `tasks.base.Learner`."""
        self.module.git.set_grad_checkpointing(True)

    def describe(self, batch: Mapping[str, Tensor]) -> list[str]:
        """What the network answers to the first part's question, and the right answer."""
        git, words = self.module.git, Tokenizer(self.config.words)
        context_BC, target_BT = batch["context_BRC"][:, 0], batch["target_BRT"][:, 0]
        inputs = (git, self.module.pixels(batch["image_BHWC"]), context_BC)
        found = decode(*inputs, steps=git.config.target, beams=SAMPLE_BEAMS, results=1, submit=self._submit)
        said, right = words.text(found.token_BRT[:, 0].tolist()), words.text(target_BT.tolist())
        return [f"{one} (right: {other})" for one, other in zip(said, right)]

    def measures(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``entity_exact``, ``questions_exact``: whether the likeliest words are the right ones, to the letter.

        See `Git.exact`. No rationale is written twice in the same words, so it is not measured so.
        """
        logit_BRTV = self.module(*self.inputs(batch))["logit_BRTV"]
        right_BR, has_BR = self.module.git.exact(logit_BRTV, batch["target_BRT"])
        right_BR = right_BR.float().masked_fill(~has_BR, torch.nan)
        names = self.config.targets.names()
        return {f"{name}_exact": right_BR[:, at] for at, name in enumerate(names) if name != "rationale"}

    def make_static(self, submit: Callable[[], None]) -> None:
        """See `tasks.base.Learner`."""
        self._submit = submit

    def after_step(self) -> None:
        """Nothing has a limit."""

    def save(self, folder: Path) -> None:
        """Write a folder that `models.git_module` opens."""
        config = self.config
        self.module.save(folder, config.origin, config.words, config.shape, codes=config.codes)
