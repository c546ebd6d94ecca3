"""M2IB for a batch of pairs, shared by the Lightning module and ``explain``.

Legend: B pairs.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from m2ib_lightning.config import MODALITIES, Modality
from m2ib_lightning.encoder.compilation import check_compiler
from m2ib_lightning.encoder.frozen import frozen
from m2ib_lightning.encoder.identity import IdentityCheck
from m2ib_lightning.encoder.layout import Hidden
from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.m2ib.batch_results import batch_results
from m2ib_lightning.m2ib.bottleneck import InformationBottleneck
from m2ib_lightning.m2ib.chunks import Chunk, plan_chunks, smaller_max_rows
from m2ib_lightning.m2ib.memory import keep_freed_memory
from m2ib_lightning.m2ib.noise import NoiseBank
from m2ib_lightning.m2ib.optimise import Backward, Problem, optimise
from m2ib_lightning.m2ib.out_of_memory import DOES_NOT_FIT, REPEATED, is_out_of_memory
from m2ib_lightning.m2ib.path import ONE_BETA, Path, along_path, row_betas
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.m2ib.statistics import Statistics, needed
from m2ib_lightning.m2ib.suffix_plans import SuffixPlan, SuffixPlans
from m2ib_lightning.m2ib.unit_targets import UnitTargets, unit_targets
from m2ib_lightning.pairs.pair import PairBatch
from m2ib_lightning.results.attribution import Attribution

_HALF_LOSS_SCALE = 2.0**12
"""Loss scale in float16, whose range is 6e-8 to 6e4: a cosine's gradient at a hidden state is about 1e-7 to 1e-3."""


def resolve(settings: BottleneckSettings, encoder: Encoder) -> BottleneckSettings:
    """Return the settings with the layer of each tower resolved: None becomes the published depth.

    Raises:
        M2IBError: if a layer is out of range.
    """
    layers = {m: encoder.towers[m].resolve_layer(settings.tower(m).layer) for m in MODALITIES}
    return settings.override({str(modality): {"layer": layer} for modality, layer in layers.items()})


class Explainer:
    """Explains batches of pairs: it optimises the bottlenecks of both towers. Call it inside ``at_work``.

    The towers compute in autocast's dtype. Everything else is in the dtype of the alphas.

    Args:
        encoder: the model.
        settings: settings with layers resolved.
        seed: seed of the noise.
        statistics: priors for the towers with ``prior="data"``.
        compile: whether to run the body of the loop through ``torch.compile``.

    Attributes:
        bottlenecks: one ``InformationBottleneck`` per tower; their alphas are the only trained parameters.
        on_step: None, or a function that is called after each step with the results of an optimisation that ends there.

    Raises:
        M2IBError: if the statistics of a ``prior="data"`` layer are missing.
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
        self.bottlenecks = nn.ModuleDict({m: self._make_bottleneck(m, statistics) for m in MODALITIES})
        self._noise = {
            m: NoiseBank(seed, m, (settings.noise_samples, tower.max_tokens, tower.width), settings.centred_noise)
            for m, tower in encoder.towers.items()
        }
        self._path = Path(settings.path, settings.opposite)
        self._compile = compile
        self._suffixes: SuffixPlans | None = None
        self._max_rows = sys.maxsize  # lowered when memory runs out
        self._warned = False
        self.on_step: Callable[[list[Attribution]], None] | None = None
        self._check_identity = IdentityCheck(encoder)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Prepare the explainer for calls inside this context.

        The context freezes the model and moves it to the device and dtype of the alphas. It also caches the suffixes
        and the noise. Its end restores the model and clears the caches.
        """
        alpha = next(self.bottlenecks.parameters())
        if alpha.device.type == "cpu":
            keep_freed_memory()
        if self._compile:
            check_compiler(alpha.device)
        with frozen(self.encoder.model, alpha.device, alpha.dtype):
            self._max_rows, self._warned = sys.maxsize, False
            self._suffixes = SuffixPlans(self.encoder, self.settings.max_rows, compiled=self._compile)
            self._check_identity.reset()
            try:
                yield
            finally:
                self._suffixes = None
                for bank in self._noise.values():
                    bank.clear()

    def _make_bottleneck(self, modality: Modality, statistics: Statistics) -> InformationBottleneck:
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
        """Return an Adam optimiser of the alphas of both towers."""
        return torch.optim.Adam(self.bottlenecks.parameters(), lr=self.settings.lr)

    def __call__(
        self,
        batch: PairBatch,
        optimizer: torch.optim.Optimizer,
        backward: Backward = torch.Tensor.backward,
    ) -> list[Attribution]:
        """Explain a batch of pairs on the model's device.

        If memory runs out, the batch is repeated with smaller chunks, which changes no result. Later batches start
        with the chunk size that worked. If a single pair does not fit, only that pair fails.

        Args:
            batch: the pairs, on the model's device.
            optimizer: optimiser of the alphas, from ``optimizer``.
            backward: function that runs the backward pass of a loss.

        Returns:
            The results in source order, failed pairs included.
        """
        explained = self._explain(batch, optimizer, backward) if batch.pairs else []
        return batch.complete(explained, Attribution)

    def _explain(self, batch: PairBatch, optimizer: torch.optim.Optimizer, backward: Backward) -> list[Attribution]:
        """Explain the pairs together, or one by one if together they do not fit.

        Later batches may fit as a whole, so the row limit is restored after single pairs.
        """
        limit_before = self._max_rows
        results = self._halve_until_it_fits(batch, optimizer, backward)
        if results is not None:
            return results
        self._max_rows = limit_before
        if len(batch) == 1:
            return [Attribution(batch.pairs[0], error=DOES_NOT_FIT)]
        self._warn_once()
        singles = [batch.alone(index) for index in range(len(batch))]
        results = [result for single in singles for result in self._explain(single, optimizer, backward)]
        self._max_rows = limit_before
        return results

    def _halve_until_it_fits(
        self, batch: PairBatch, optimizer: torch.optim.Optimizer, backward: Backward
    ) -> list[Attribution] | None:
        """Explain the pairs together, with half the rows after each failure.

        The result is None if single draws, or the clean pass, do not fit.
        """
        while True:
            chunks: list[Chunk] = []
            try:
                return self._attempt(batch, optimizer, backward, chunks)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            self._free_memory(optimizer)  # outside the except clause, whose traceback keeps the tensors
            smaller = smaller_max_rows(chunks)
            if smaller is None:
                return None
            self._warn_once()
            self._max_rows = smaller

    def _attempt(
        self, batch: PairBatch, optimizer: torch.optim.Optimizer, backward: Backward, chunks: list[Chunk]
    ) -> list[Attribution]:
        """Explain all pairs together. The chunks are added to ``chunks`` once the clean pass has succeeded."""
        self._check_identity(batch.tower_inputs, lambda modality: self._suffix_plan(modality).suffix)
        units = unit_targets(batch, self.encoder.towers["text"])
        problems, similarity = self.problems(batch, units)
        chunks += [chunk for problem in problems.values() for chunk in problem.chunks]
        optimizer.state.clear()
        shares = None if units is None else units.shares(problems["text"].target)
        towers, on_step = self.encoder.towers, self.on_step
        read = partial(batch_results, batch, similarity, towers=towers, units=units, shares=shares, path=self._path)
        observe = None if on_step is None else lambda traces: on_step(list(read(traces)))
        traces = optimise(problems, steps=self.settings.steps, optimizer=optimizer, backward=backward, observe=observe)
        return list(read(traces))

    def _free_memory(self, optimizer: torch.optim.Optimizer) -> None:
        """Free the tensors that a failed attempt has left in memory."""
        optimizer.zero_grad(set_to_none=True)
        optimizer.state.clear()
        for alpha in self.bottlenecks.parameters():
            alpha.data = alpha.new_empty(0, 0, alpha.shape[-1])
        if alpha.device.type == "cuda":
            torch.cuda.empty_cache()

    def _warn_once(self) -> None:
        if not self._warned:
            warnings.warn(REPEATED, stacklevel=2)
        self._warned = True

    def problems(self, batch: PairBatch, units: UnitTargets | None = None) -> tuple[dict[Modality, Problem], Tensor]:
        """Run the clean pass, without noise, and set up the optimisation.

        Args:
            batch: the pairs.
            units: targets of the N units of the captions. The image problem then has B + N rows: the pairs, and after
                them the units, which share the hidden states of their pictures. Each row is repeated for the betas of
                the path.

        Returns:
            The optimisation problem of each tower, and the clean cosines (B,).
        """
        hidden: dict[Modality, Hidden] = {}
        embeddings: dict[Modality, Tensor] = {}
        for modality, inputs in batch.tower_inputs.items():
            hidden[modality] = self.encoder.towers[modality].prefix(inputs, self._layer(modality))
            embeddings[modality] = self._suffix_plan(modality).suffix.embed(hidden[modality])
        image = embeddings["image"]
        text = embeddings["text"] if batch.targets is None else batch.targets
        targets: dict[Modality, Tensor] = {"image": text, "text": image}
        if units is not None:
            pairs = torch.arange(len(image), device=image.device)
            hidden["image"] = hidden["image"].rows(torch.cat([pairs, units.rows]))
            targets["image"] = torch.cat([text, units.direction.to(text)])
        hidden["image"], targets["image"] = along_path(hidden["image"], targets["image"], self._path)
        problems = {modality: self._problem(modality, hidden[modality], targets[modality]) for modality in hidden}
        dtype = self._bottleneck("image").alpha.dtype
        return problems, F.cosine_similarity(image.to(dtype), text.to(dtype), dim=-1)

    def _problem(self, modality: Modality, hidden: Hidden, target: Tensor) -> Problem:
        plan, draws = self._suffix_plan(modality), self.settings.noise_samples
        bottleneck, path = self._bottleneck(modality), self._path if modality == "image" else ONE_BETA
        bottleneck.reset(*hidden.z.shape[:2])
        betas = None if path.copies == 1 else row_betas(bottleneck.beta, path, len(target), bottleneck.alpha)
        return Problem(
            plan.function,
            bottleneck,
            hidden,
            target,
            self._noise[modality],
            draws,
            plan_chunks(hidden.layout.lengths(), draws, min(plan.max_rows, self._max_rows)),
            betas,
            _HALF_LOSS_SCALE if plan.suffix.dtype == torch.float16 else 1.0,
        )

    def _suffix_plan(self, modality: Modality) -> SuffixPlan:
        if self._suffixes is None:
            raise RuntimeError("call an Explainer inside `with explainer.at_work():`")
        return self._suffixes.plan(modality, self._layer(modality), self._bottleneck(modality).alpha)

    def _bottleneck(self, modality: Modality) -> InformationBottleneck:
        bottleneck = self.bottlenecks[modality]
        assert isinstance(bottleneck, InformationBottleneck)
        return bottleneck
