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
from raylab.models.dual_encoder import DualEncoderConfig
from raylab.models.git_module import GitModule, GitShape
from raylab.models.text import Tokenizer, TokenizerConfig
from raylab.tasks.base import Arrays, Group, ImageInput, TaskContext, decayed
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
    """What is learnt, and how much each part weighs; 0 leaves it out. The paper weighs them alike."""

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

    def __post_init__(self) -> None:
        if not self.targets.names():
            raise RaylabError("task.targets: all of them are 0, so there is nothing to learn.")

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
        self.image: ImageInput = image_input(config.encoder, config.crop)
        self.tokenizer = Tokenizer(config.tokenizer)
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
        """Rows with a name, be it one that no entity has (decoding handles it); with codes, an entity."""
        if self.config.codes:
            return rows["entity_id"].is_valid().to_numpy()
        return pc.fill_null(pc.greater(pc.utf8_length(rows["entity_name"]), 0), False).to_numpy()

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
        code_BL = code_EL[catalog.rows(rows["entity_id"].combine_chunks())]
        target_BT = np.full((len(rows), self.config.shape.target), self.tokenizer.pad)
        target_BT[:, 0] = self.tokenizer.start
        target_BT[:, 1 : 1 + code_BL.shape[1]] = code_BL
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


class GitLearner:
    """See `tasks.base.Learner`."""

    table: ClassTable | None = None

    def __init__(self, config: GitTask) -> None:
        self.config = config
        self._submit: Callable[[], None] | None = None
        self.module = GitModule.make(config.encoder, config.tokenizer, config.shape)

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """See `tasks.base.Learner`."""
        return batch["image_BHWC"], batch["context_BRC"], batch["target_BRT"]

    def losses(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parts' losses, each the mean over its rows, and their weighted sum."""
        target_BRT = batch["target_BRT"]
        loss_BR, has_BR = self.module.git.text_losses(outputs["logit_BRTV"], target_BRT, self.config.smoothing)
        mean_R = (loss_BR * has_BR).sum(0) / has_BR.sum(0).clamp(min=1)
        parts = dict(zip(self.config.targets.names(), mean_R))
        weights = self.config.targets
        return {"loss": torch.stack([getattr(weights, name) * part for name, part in parts.items()]).sum(), **parts}

    def groups(self) -> list[Group]:
        """Encoder and decoder, each with its rate; weight decay, where a run has any, is for matrices."""
        found = []
        git = self.module.git
        decoder = [module for name, module in git.named_children() if name != "encoder"]
        for name, modules, rate in (("encoder", [git.encoder], self.config.encoder_rate), ("decoder", decoder, 1.0)):
            matrices, others = decayed(torch.nn.ModuleList(modules))
            found.append(Group(f"{name} matrices", matrices, rate, decays=True))
            found.append(Group(f"{name} others", others, rate, decays=False))
        return found

    def shard_units(self) -> list[nn.Module]:
        """See `tasks.base.Learner`."""
        blocks = [module for module in self.module.modules() if type(module).__name__ == "ResidualAttentionBlock"]
        return [*blocks, *self.module.git.layers]

    def checkpoint_activations(self) -> None:
        """See `tasks.base.Learner`."""
        self.module.git.set_grad_checkpointing(True)

    def describe(self, batch: Mapping[str, Tensor]) -> list[str]:
        """What the network answers to the first part's question, and the right answer."""
        git, words = self.module.git, Tokenizer(self.config.tokenizer)
        context_BC, target_BT = batch["context_BRC"][:, 0], batch["target_BRT"][:, 0]
        inputs = (git, self.module.pixels(batch["image_BHWC"]), context_BC)
        found = decode(*inputs, steps=git.config.target, beams=SAMPLE_BEAMS, results=1, submit=self._submit)
        said, right = words.text(found.token_BRT[:, 0].tolist()), words.text(target_BT.tolist())
        return [f"{one} (right: {other})" for one, other in zip(said, right)]

    def make_static(self, submit: Callable[[], None]) -> None:
        """See `tasks.base.Learner`."""
        self._submit = submit

    def after_step(self) -> None:
        """Nothing has a limit."""

    def save(self, folder: Path) -> None:
        """Write a folder that `models.git_module` opens."""
        config = self.config
        self.module.save(folder, config.encoder, config.tokenizer, config.shape, codes=config.codes)
