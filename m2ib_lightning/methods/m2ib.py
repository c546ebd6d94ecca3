"""M2IB, this package's own method, as one of several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from m2ib_lightning.m2ib.explainer import Explainer, resolve
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.methods.base import (
    METHODS,
    Context,
    Method,
    make_method,
    naming,
    parse_method,
    register_method,
    smoothing,
    without_smooth,
)
from m2ib_lightning.methods.scorer import Clean
from m2ib_lightning.pairs.pair import PairBatch
from m2ib_lightning.results.attribution import Attribution


class M2IB(Method):
    """The multi-modal information bottleneck (Wang, Rudner and Wilson, NeurIPS 2023): ``Explainer``, in nats.

    What differs from the published code is in the README ("Against the published code").

    Args:
        context: with the settings that ``bottleneck`` overrides.
        bottleneck: keys of the bottleneck: ``steps=20``, ``image={"layer": 2}``.
    """

    random = True

    def __init__(self, context: Context, **bottleneck: Any) -> None:
        super().__init__(context)
        encoder = context.model.encoder
        self.settings = resolve(context.settings.override(bottleneck), encoder)
        self.explainer = Explainer(
            encoder, self.settings, seed=context.seed, statistics=context.statistics, compile=context.compile
        )
        self._optimizer = self.explainer.optimizer()

    @override
    @contextmanager
    def at_work(self, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
        self.explainer.bottlenecks.to(device=device, dtype=dtype)
        with self.explainer.at_work():
            yield

    @override
    def __call__(self, batch: PairBatch) -> list[Attribution]:
        return self.explainer(batch, self._optimizer)

    @override
    def image_saliency(self, batch: PairBatch, clean: Clean) -> Tensor:
        raise NotImplementedError("both towers are optimised in one loop: call the method")

    @override
    def text_saliency(self, batch: PairBatch, clean: Clean) -> Tensor:
        raise NotImplementedError("both towers are optimised in one loop: call the method")


register_method("m2ib", M2IB)


def bottlenecks_of(methods: Sequence[str], context: Context) -> list[BottleneckSettings]:
    """The settings of those of the methods that are M2IB; the others are checked.

    Raises:
        M2IBError: on a method that does not exist, or that does not take its options.
    """
    found = []
    for text in methods:
        name, options = parse_method(without_smooth(text))
        if METHODS.get(name) is M2IB:
            smoothing(text)
            with naming(text):
                found.append(resolve(context.settings.override(options), context.model.encoder))
        else:
            make_method(text, context)
    return found
