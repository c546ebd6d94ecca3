"""A frozen model that scores altered pictures and captions, for attribution methods and their metrics.

Legend: B pairs, N altered inputs, H x W pixels, T tokens, D width, E embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor

from m2ib_lightning.config import MODALITIES, Modality
from m2ib_lightning.encoder.frozen import frozen
from m2ib_lightning.encoder.identity import IdentityCheck
from m2ib_lightning.encoder.layout import Hidden, Layout
from m2ib_lightning.encoder.suffix import Suffix, make_suffix
from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.m2ib.chunks import default_max_rows
from m2ib_lightning.pairs.pair import PairBatch


@dataclass(frozen=True)
class Words:
    """Embedded captions, as the input of the text tower's first block, whose words can be removed.

    Attributes:
        hidden: embedded captions; ``hidden.z`` is (B, T, D).
        absent: (B, T, D), replacement of each removed word: the mean of all word embeddings at the word's position.
        words: (B, T) bool, True for the caption's own tokens; special tokens and padding are never removed.
    """

    hidden: Hidden
    absent: Tensor
    words: Tensor

    @property
    def rows(self) -> Tensor:
        """(B,) the index of each caption, for functions that get several altered copies of them."""
        return torch.arange(len(self.words), device=self.words.device)

    def one(self, row: int, length: int) -> Words:
        """Return one of the captions without its padding."""
        part = (slice(row, row + 1), slice(length))
        alone = Hidden(self.hidden.z[part], self.hidden.layout.rows(part[0]).cut(length))
        return Words(alone, self.absent[part], self.words[part])

    def keep(self, amount: Tensor) -> Tensor:
        """Mix each word with its replacement.

        Args:
            amount: (..., B, T) in [0, 1], share of each word that stays.

        Returns:
            Hidden states (..., B, T, D).
        """
        amount = amount.to(self.absent).masked_fill(~self.words, 1).unsqueeze(-1)
        return torch.lerp(self.absent, self.hidden.z, amount)


@dataclass(frozen=True)
class Clean:
    """Embeddings and cosines of the unaltered pairs of a batch.

    Attributes:
        embeddings: (B, E) for each tower; the text's are the batch's targets where it has them in place of captions.
        similarity: (B,), cosine of the two embeddings.
    """

    embeddings: dict[Modality, Tensor]
    similarity: Tensor

    def target(self, modality: Modality) -> Tensor:
        """Return the embeddings (B, E) that a tower's embeddings are compared with."""
        return self.embeddings["text" if modality == "image" else "image"]


class Scorer:
    """Runs a frozen model on altered inputs, in chunks that fit into memory, inside ``at_work``.

    All arithmetic is in the dtype of the weights, also under autocast.

    Args:
        encoder: the model to run.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._suffixes: dict[Modality, Suffix] | None = None
        self._check_identity = IdentityCheck(encoder)
        self._rows: dict[Modality, int] = {}
        self._mean_word: Tensor | None = None  # (D,), computed once: a vocabulary may have a million words

    @contextmanager
    def at_work(self, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
        """Move the model to a device and a dtype and freeze it; restore it on exit. The context is reentrant."""
        if self._suffixes is not None:
            yield
            return
        with frozen(self.encoder.model, device, dtype), torch.autocast(device.type, enabled=False):
            towers = self.encoder.towers
            self._suffixes = {m: make_suffix(towers[m], -1, dtype) for m in MODALITIES}
            self._rows = {m: default_max_rows(towers[m], -1, dtype, device) for m in MODALITIES}
            self._check_identity.reset()
            try:
                yield
            finally:
                self._suffixes = self._mean_word = None

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.encoder.model.parameters()).device

    def at_a_time(self, modality: Modality) -> int:
        """Return how many altered inputs go through a tower at a time."""
        return max(1, self._rows[modality] // self.encoder.towers[modality].max_tokens)

    def images(self, pixels: Tensor) -> Tensor:
        """Embed images (N, 3, H, W), as the processor gives them, to (N, E)."""
        tower, suffix = self.encoder.towers["image"], self._suffix("image")
        parts = []
        for part in pixels.split(self.at_a_time("image")):
            hidden = tower.embed({"pixel_values": part})
            parts.append(suffix(hidden.z, hidden.layout))
        return torch.cat(parts)

    def captions(self, z: Tensor, layout: Layout) -> Tensor:
        """Embed captions to (N, E).

        Args:
            z: (N, T, D), hidden states as in ``Words``.
            layout: what the tower reads of them, and where it pools.
        """
        suffix, step = self._suffix("text"), self.at_a_time("text")
        return torch.cat([suffix(*part) for part in zip(z.split(step), layout.split(step), strict=True)])

    def caption_cosine(self, words: Words) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Return a function (z, target, rows) -> (N,) cosines of altered captions.

        Args:
            words: the captions. The function gets altered copies z (N, T, D) of them, the target (N, E) of each copy,
                and the index (N,) of the caption that each is a copy of.
        """

        def cosine(z: Tensor, target: Tensor, rows: Tensor) -> Tensor:
            return F.cosine_similarity(self.captions(z, words.hidden.layout.rows(rows)), target, dim=-1)

        return cosine

    def tokens(self, inputs: dict[str, Tensor]) -> Tensor:
        """Embed tokenised captions to (N, E)."""
        hidden = self.encoder.towers["text"].prefix(inputs, -1)
        return self.captions(hidden.z, hidden.layout)

    def lengths(self, inputs: dict[str, Tensor]) -> list[int]:
        """Return how many leading tokens of each caption hold all that the tower reads."""
        return Layout(self.reads(inputs), None).lengths()

    def reads(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return which tokens (B, T) of each caption the tower reads."""
        return self.encoder.towers["text"].reads(inputs)

    def words(self, batch: PairBatch) -> Words:
        """Embed the captions of a batch, so that words can be removed.

        Raises:
            M2IBError: if the model's family does not name its word embeddings.
        """
        tower = self.encoder.towers["text"]
        if tower.spec.words is None:
            raise M2IBError(
                "this method or metric removes words, and the model's family does not name its word embeddings: give "
                "words= to its TowerSpec"
            )
        inputs = batch.inputs["text"]
        hidden = tower.prefix(inputs, -1)
        table = tower.spec.words(tower.model)
        if self._mean_word is None:
            self._mean_word = table.weight.detach().mean(0)
        mean = self._mean_word
        hook = table.register_forward_hook(lambda module, arguments, words: mean.repeat(*words.shape[:-1], 1))
        try:
            absent = tower.prefix(inputs, -1).z
        finally:
            hook.remove()
        words = torch.zeros(hidden.z.shape[:2], dtype=torch.bool)
        for row, pair in enumerate(batch.pairs):
            words[row, pair.token_positions] = True
        return Words(hidden, absent, words.to(absent.device))

    @torch.no_grad()
    def clean(self, batch: PairBatch) -> Clean:
        """Return the embeddings and the cosines of the batch's unaltered pairs.

        Raises:
            M2IBError: if a tower of the first batch is not the model's own function.
        """
        self.check_identity(batch)
        image = self.images(self.pixels(batch))
        text = self.tokens(batch.inputs["text"]) if batch.targets is None else batch.targets.to(image)
        return Clean({"image": image, "text": text}, F.cosine_similarity(image, text, dim=-1))

    def check_identity(self, batch: PairBatch) -> None:
        """Check on the first batch that the towers are the model's own function (``IdentityCheck``).

        Raises:
            M2IBError: if a tower is not.
        """
        self._check_identity(batch.tower_inputs, self._suffix)

    def pixels(self, batch: PairBatch) -> Tensor:
        """Return the batch's images (B, 3, H, W) in the dtype of the weights."""
        return batch.inputs["image"]["pixel_values"].to(self.encoder.towers["image"].dtype)

    def grid(self, batch: PairBatch) -> tuple[int, int]:
        """Return the patch grid (height, width), the same for all pictures of the batch."""
        return self.encoder.towers["image"].grids(batch.inputs["image"])[0]

    def _suffix(self, modality: Modality) -> Suffix:
        if self._suffixes is None:
            raise RuntimeError("call a Scorer inside `with scorer.at_work(device, dtype):`")
        return self._suffixes[modality]
