"""M2IB for a batch of pairs: cut, optimise, collect. What the Lightning module and ``explain`` have in common.

Legend: B pairs, T tokens, D width, E embedding size.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from m2ib_lightning.config import MODALITIES, Modality
from m2ib_lightning.encoder.compilation import check_compiler
from m2ib_lightning.encoder.frozen import frozen
from m2ib_lightning.encoder.suffix import Suffix, make_suffix
from m2ib_lightning.encoder.towers import Encoder, Hidden, Tower
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.m2ib.bottleneck import InformationBottleneck
from m2ib_lightning.m2ib.chunks import Chunk, default_max_rows, halved, plan_chunks
from m2ib_lightning.m2ib.memory import keep_freed_memory
from m2ib_lightning.m2ib.noise import NoiseBank
from m2ib_lightning.m2ib.optimise import Backward, Problem, Run, Trace, optimise
from m2ib_lightning.m2ib.out_of_memory import DOES_NOT_FIT, REPEATED, is_out_of_memory
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.m2ib.statistics import Statistics, needed
from m2ib_lightning.pairs.pair import PairBatch
from m2ib_lightning.results.attribution import NOT_FINITE, Attribution, TowerAttribution

_HALF_LOSS_SCALE = 2.0**12
"""A cosine's gradient at a hidden state is about 1e-3 to 1e-7, and float16 ends at 6e-8 and 6e4."""


def resolve(settings: BottleneckSettings, encoder: Encoder) -> BottleneckSettings:
    """The settings with a layer for each tower.

    Raises:
        M2IBError: if a layer is out of range.
    """
    layers = {m: encoder.towers[m].resolve_layer(settings.tower(m).layer) for m in MODALITIES}
    return settings.override({str(modality): {"layer": layer} for modality, layer in layers.items()})


class _Ready(NamedTuple):
    """A suffix, the same as the loop runs it (compiled, perhaps), and how many rows go through it at a time."""

    suffix: Suffix
    run: Run
    max_rows: int


class Explainer:
    """Optimises the bottlenecks of both towers for a batch of pairs, inside ``at_work``.

    The towers' arithmetic is in the type that autocast asks for; all else is in the type of the alphas.

    Args:
        encoder: the model.
        settings: with layers resolved.
        seed: keys the noise.
        statistics: priors for the towers with ``prior="data"``.
        compile: whether ``torch.compile`` compiles the body of the loop.

    Attributes:
        bottlenecks: one ``InformationBottleneck`` per tower; their alphas are all that is trained.

    Raises:
        M2IBError: if a prior is needed and its statistics are not there.
    """

    def __init__(
        self,
        encoder: Encoder,
        settings: BottleneckSettings,
        *,
        seed: int = 0,
        statistics: Statistics | None = None,
        compile: bool = False,
    ) -> None:
        statistics = statistics or Statistics()
        missing = needed(settings, statistics)
        if missing:
            raise M2IBError(
                f"prior=data needs the statistics of {', '.join(f'{m} layer {k}' for m, k in missing.items())}. "
                "Make them with 'python fit.py data.name=captions data.path=TABLE bottleneck.image.prior=data ...', "
                "which writes statistics.safetensors to its run directory, and give that file as statistics=."
            )
        self.encoder = encoder
        self.settings = settings
        self.bottlenecks = nn.ModuleDict({m: self._bottleneck(m, statistics) for m in MODALITIES})
        self._noise = {
            m: NoiseBank(seed, m, (settings.noise_samples, tower.max_tokens, tower.width))
            for m, tower in encoder.towers.items()
        }
        self._compile = compile
        self._ready: dict[tuple[Modality, torch.dtype], _Ready] | None = None
        self._limit = sys.maxsize  # rows at a time, less once memory has run out
        self._told = False

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Inside, the model is frozen, on the alphas' device and in their type, and what is made of it is kept."""
        alpha = next(self.bottlenecks.parameters())
        if alpha.device.type == "cpu":
            keep_freed_memory()
        if self._compile:
            check_compiler(alpha.device)
        with frozen(self.encoder.model, alpha.device, alpha.dtype):
            self._ready, self._limit, self._told = {}, sys.maxsize, False
            try:
                yield
            finally:
                self._ready = None
                for bank in self._noise.values():
                    bank.clear()

    def _bottleneck(self, modality: Modality, statistics: Statistics) -> InformationBottleneck:
        tower, width = self.settings.tower(modality), self.encoder.towers[modality].width
        prior = statistics.get(modality, self._layer(modality)) if tower.prior == "data" else None
        if prior is not None and len(prior.mean) != width:
            raise M2IBError(
                f"the statistics of {modality} layer {tower.layer} have {len(prior.mean)} channels and this model has "
                f"{width}: they were made with another model"
            )
        return InformationBottleneck(
            width,
            tower,
            initial_alpha=self.settings.initial_alpha,
            mean=prior.mean if prior else None,
            std=prior.std if prior else None,
        )

    def _layer(self, modality: Modality) -> int:
        layer = self.settings.tower(modality).layer
        assert layer is not None, "resolve the settings first"
        return layer

    def optimizer(self) -> torch.optim.Adam:
        """Adam over both towers' alphas. Clear its state between batches."""
        return torch.optim.Adam(self.bottlenecks.parameters(), lr=self.settings.lr)

    def __call__(
        self,
        batch: PairBatch,
        optimizer: torch.optim.Optimizer,
        backward: Backward = torch.Tensor.backward,
    ) -> list[Attribution]:
        """Explain a batch on the model's device; failed pairs come back too, all in source order.

        Where memory runs out, the batch is repeated with less at a time, which changes no result. What works is kept
        for later batches. A pair that does not fit alone fails alone.
        """
        explained = self._explain(batch, optimizer, backward) if batch.pairs else []
        return batch.complete(explained, Attribution)

    def _explain(self, batch: PairBatch, optimizer: torch.optim.Optimizer, backward: Backward) -> list[Attribution]:
        """Together, or where that does not fit, one by one, each and the next batch from the limit before this one."""
        before = self._limit
        results = self._halve_until_it_fits(batch, optimizer, backward)
        if results is not None:
            return results
        self._limit = before
        if len(batch) == 1:
            return [Attribution(batch.pairs[0], error=DOES_NOT_FIT)]
        self._tell()
        parts = [batch.alone(place) for place in range(len(batch))]
        results = [result for part in parts for result in self._explain(part, optimizer, backward)]
        self._limit = before
        return results

    def _halve_until_it_fits(
        self, batch: PairBatch, optimizer: torch.optim.Optimizer, backward: Backward
    ) -> list[Attribution] | None:
        """None if one draw at a time is too much, or the clean pass, which knows no draws."""
        while True:
            plan: list[Chunk] = []
            try:
                return self._attempt(batch, optimizer, backward, plan)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            self._let_go(optimizer)  # not in the except clause: there the traceback holds the attempt's tensors
            smaller = halved(plan)
            if smaller is None:
                return None
            self._tell()
            self._limit = smaller

    def _attempt(
        self, batch: PairBatch, optimizer: torch.optim.Optimizer, backward: Backward, plan: list[Chunk]
    ) -> list[Attribution]:
        """All pairs in one go; ``plan`` gets the chunks of both towers once they count."""
        problems, similarity = self.problems(batch)
        plan += [chunk for problem in problems.values() for chunk in problem.chunks]
        optimizer.state.clear()
        traces = optimise(problems, steps=self.settings.steps, optimizer=optimizer, backward=backward)
        return list(_collect(batch, similarity, traces, self.encoder.towers["image"]))

    def _let_go(self, optimizer: torch.optim.Optimizer) -> None:
        """Of all that a failed attempt has left in memory."""
        optimizer.zero_grad(set_to_none=True)
        optimizer.state.clear()
        for alpha in self.bottlenecks.parameters():
            alpha.data = alpha.new_empty(0, 0, alpha.shape[-1])
        if alpha.device.type == "cuda":
            torch.cuda.empty_cache()

    def _tell(self) -> None:
        if not self._told:
            warnings.warn(REPEATED, stacklevel=2)
        self._told = True

    def problems(self, batch: PairBatch) -> tuple[dict[Modality, Problem], Tensor]:
        """The clean pass: what is to be optimised in each tower, and the clean cosine (B,)."""
        hidden: dict[Modality, Hidden] = {}
        embeddings: dict[Modality, Tensor] = {}
        modalities: tuple[Modality, ...] = MODALITIES if batch.targets is None else ("image",)
        for modality in modalities:
            hidden[modality] = self.encoder.towers[modality].prefix(batch.inputs[modality], self._layer(modality))
            embeddings[modality] = self._prepared(modality).suffix.embed(hidden[modality])
        image = embeddings["image"]
        text = embeddings["text"] if batch.targets is None else batch.targets
        targets: dict[Modality, Tensor] = {"image": text, "text": image}
        problems = {modality: self._problem(modality, hidden[modality], targets[modality]) for modality in modalities}
        dtype = self._get("image").alpha.dtype
        return problems, F.cosine_similarity(image.to(dtype), text.to(dtype), dim=-1)

    def _problem(self, modality: Modality, hidden: Hidden, target: Tensor) -> Problem:
        ready, draws = self._prepared(modality), self.settings.noise_samples
        self._get(modality).reset(*hidden.z.shape[:2])
        return Problem(
            ready.run,
            self._get(modality),
            hidden,
            target,
            self._noise[modality],
            draws,
            plan_chunks(hidden.lengths(), draws, min(ready.max_rows, self._limit)),
            _HALF_LOSS_SCALE if ready.suffix.dtype == torch.float16 else 1.0,
        )

    def _prepared(self, modality: Modality) -> _Ready:
        """Made once per run, tower and type of arithmetic."""
        if self._ready is None:
            raise RuntimeError("call an Explainer inside `with explainer.at_work():`")
        alpha, tower, layer = self._get(modality).alpha, self.encoder.towers[modality], self._layer(modality)
        device = alpha.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else alpha.dtype
        if (modality, dtype) not in self._ready:
            suffix = make_suffix(tower, layer, dtype)
            run: Run = torch.compile(suffix.__call__) if self._compile else suffix
            max_rows = self.settings.max_rows or default_max_rows(tower, layer, dtype, alpha.device)
            self._ready[modality, dtype] = _Ready(suffix, run, max_rows)
        return self._ready[modality, dtype]

    def _get(self, modality: Modality) -> InformationBottleneck:
        bottleneck = self.bottlenecks[modality]
        assert isinstance(bottleneck, InformationBottleneck)
        return bottleneck


def _collect(
    batch: PairBatch, similarity: Tensor, traces: dict[Modality, Trace], image_tower: Tower
) -> Iterator[Attribution]:
    clean = similarity.tolist()
    image, text = traces["image"].cpu(), traces["text"].cpu() if "text" in traces else None
    spec = image_tower.spec
    assert spec.grid is not None
    grid = spec.grid(image_tower.model, batch.inputs["image"])
    for index, pair in enumerate(batch.pairs):
        patches = image.saliency[index, spec.prefix_tokens :].reshape(grid)
        words = None if text is None else _part(text.saliency[index, pair.token_positions], text, index)
        result = Attribution(pair, clean[index], _part(patches, image, index), words)
        yield result if _finite(result) else Attribution(pair, error=NOT_FINITE)


def _part(saliency: Tensor, trace: Trace, index: int) -> TowerAttribution:
    columns = (trace.loss[:, index], trace.information[:, index], trace.similarity[:, index])
    return TowerAttribution(*(column.numpy() for column in (saliency, *columns)))


def _finite(result: Attribution) -> bool:
    parts = [part for part in (result.image, result.text) if part is not None]
    return all(np.isfinite(array).all() for part in parts for array in (part.saliency, part.loss) if array is not None)
