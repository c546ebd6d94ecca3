"""M2IB, the package's own method, behind the interface of all methods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from typing_extensions import override

from m2ib_lightning.m2ib.explainer import Explainer, resolve
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.methods.by_name import METHODS, make_method, naming, parse_smoothed, register_method
from m2ib_lightning.methods.method import Context, Method
from m2ib_lightning.pairs.pair import PairBatch
from m2ib_lightning.results.attribution import Attribution


class M2IB(Method):
    """The multi-modal information bottleneck (Wang, Rudner and Wilson, NeurIPS 2023); saliency in nats.

    One loop optimises both towers (``Explainer``). The README has the method in ten lines.

    Args:
        context: the model, and the settings that ``bottleneck`` overrides.
        bottleneck: settings of the bottleneck to override, such as ``steps=20`` or ``image={"layer": 2}``.
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


register_method("m2ib", M2IB)


def bottlenecks_of(methods: Sequence[str], context: Context) -> list[BottleneckSettings]:
    """Return the bottleneck settings of the M2IB methods among ``methods``, and check the other methods.

    Raises:
        M2IBError: if a method does not exist, or does not take its options.
    """
    bottlenecks = []
    for text in methods:
        name, options, _ = parse_smoothed(text)
        if METHODS.get(name) is M2IB:
            with naming(text):
                bottlenecks.append(resolve(context.settings.override(options), context.model.encoder))
        else:
            make_method(text, context)
    return bottlenecks
