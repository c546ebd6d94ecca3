"""The trained readout: a map in one forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from typing_extensions import override

from m2ib_lightning.encoder.frozen import frozen
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.finetuning.folder import load_network
from m2ib_lightning.finetuning.maps import readout_maps
from m2ib_lightning.methods.method import Context, Method
from m2ib_lightning.pairs.pair import PairBatch
from m2ib_lightning.results.attribution import Attribution


class Readout(Method):
    """The readout bottleneck (Schulz et al., ICLR 2020) that ``task=finetune finetune.mask=readout`` has trained.

    A map takes one forward pass of each tower and of the head. It is the information that the head lets through, in
    nats. Schulz et al. read several layers of one network. The head here reads the cut, the last block whose tokens all
    count, and the other tower's embedding.
    """

    trained = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.network = load_network(context.model)
        if self.network.kind != "readout":
            raise M2IBError(
                f"the bottleneck of {context.model.name!r} is of kind {self.network.kind!r}, the same for every pair: "
                "only finetune.mask=readout gives maps"
            )

    @override
    @contextmanager
    def at_work(self, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
        with super().at_work(device, dtype), frozen(self.network.bottlenecks, device, dtype):
            yield

    @override
    @torch.no_grad()
    def __call__(self, batch: PairBatch) -> list[Attribution]:
        if batch.targets is not None:
            raise M2IBError("the readout explains a picture against a caption, not against an embedding")
        if not batch.pairs:
            return batch.complete([], Attribution)
        self.scorer.check_identity(batch)
        with torch.autocast(self.scorer.device.type, enabled=False):
            outputs = self.network(batch.inputs)
        results = readout_maps(self.network, batch, outputs)
        return batch.complete(map(self.checked, results), Attribution)
