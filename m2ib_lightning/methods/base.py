"""What an attribution method is: from a batch of pairs to their maps. One file each, in a guarded registry.

Legend: B pairs, T tokens, D width.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from typing_extensions import override

from m2ib_lightning.config import Modality
from m2ib_lightning.errors import M2IBError, nearest
from m2ib_lightning.m2ib.out_of_memory import DOES_NOT_FIT, is_out_of_memory
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.m2ib.statistics import Statistics
from m2ib_lightning.methods.scorer import Clean, Scorer
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.pairs.pair import PairBatch
from m2ib_lightning.registry import Registry
from m2ib_lightning.results.attribution import NOT_FINITE, Attribution, TowerAttribution


@dataclass(frozen=True)
class Context:
    """What every method may use.

    Attributes:
        model: that is explained.
        settings: of the bottleneck, with layers resolved; for ``m2ib``, and for whoever wants the same layer.
        statistics: priors for ``prior="data"``.
        seed: keys what is drawn at random.
        compile: whether ``m2ib`` compiles its loop.
        scorer: shared by all methods of the context, and of those that differ in the seed alone.
    """

    model: LoadedModel
    settings: BottleneckSettings
    statistics: Statistics = field(default_factory=Statistics)
    seed: int = 0
    compile: bool = False
    scorer: Scorer = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scorer", Scorer(self.model.encoder))

    def with_seed(self, seed: int) -> Context:
        """The same with another seed."""
        other = replace(self, seed=seed)
        object.__setattr__(other, "scorer", self.scorer)
        return other


class Method(ABC):
    """Makes maps: one number per patch, and one per token of the caption. Higher is more relevant.

    A subclass writes ``image_saliency`` and ``text_saliency``, and takes its options as keyword arguments.

    Args:
        context: the model, and what else may be used.

    Attributes:
        random: whether its maps depend on the seed.
        pair_specific: whether a map depends on the other half of the pair.
        trained: whether it needs weights of its own, which most model folders lack: compared only where it is named.
    """

    random: ClassVar[bool] = False
    pair_specific: ClassVar[bool] = True
    trained: ClassVar[bool] = False

    def __init__(self, context: Context) -> None:
        self.context = context
        self.scorer = context.scorer

    def at_work(self, device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
        """Inside, the method may be called; the model is frozen, and afterwards as it was."""
        return self.scorer.at_work(device, dtype)

    def __call__(self, batch: PairBatch) -> list[Attribution]:
        """Explain a batch on the model's device; failed pairs come back too, all in source order."""
        results = {pair.key: Attribution(pair, error=pair.error) for pair in batch.failed}
        if batch.pairs:
            with torch.autocast(self.scorer.device.type, enabled=False):
                results |= {result.pair.key: result for result in self._until_it_fits(batch)}
        return [results[key] for key in batch.order]

    def _until_it_fits(self, batch: PairBatch) -> list[Attribution]:
        """Where memory runs out, half of the pairs at a time; one that does not fit alone fails alone."""
        try:
            return list(self._explain(batch))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        if (
            self.scorer.device.type == "cuda"
        ):  # not in the except clause: there the traceback holds the attempt's tensors
            torch.cuda.empty_cache()
        if len(batch) == 1:
            return [Attribution(batch.pairs[0], error=DOES_NOT_FIT)]
        half = len(batch) // 2
        parts = (range(half), range(half, len(batch)))
        return [result for part in parts for result in self._until_it_fits(batch.some(list(part)))]

    def _explain(self, batch: PairBatch) -> Iterator[Attribution]:
        clean = self.scorer.clean(batch)
        grid = self.scorer.grid(batch)
        images = self.image_saliency(batch, clean).detach().cpu().reshape(-1, *grid).numpy()
        texts = None if batch.targets is not None else self.text_saliency(batch, clean).detach().cpu().numpy()
        for row, pair in enumerate(batch.pairs):
            image = TowerAttribution(images[row])
            text = None if texts is None else TowerAttribution(texts[row, pair.token_positions])
            yield self.checked(Attribution(pair, float(clean.similarity[row]), image, text, unit=""))

    @staticmethod
    def checked(result: Attribution) -> Attribution:
        """The result, or one that says that it is not finite."""
        parts = [part for part in (result.image, result.text) if part is not None]
        good = all(np.isfinite(part.saliency).all() for part in parts)
        return result if good else Attribution(result.pair, error=NOT_FINITE)

    @abstractmethod
    def image_saliency(self, batch: PairBatch, clean: Clean) -> Tensor:
        """(B, grid_h, grid_w), or (B, patches)."""

    @abstractmethod
    def text_saliency(self, batch: PairBatch, clean: Clean) -> Tensor:
        """(B, T), of the tokens that the tower gets; only those of the caption are read."""

    def layer(self, modality: Modality, given: int | None, fallback: int) -> int:
        """The given layer, checked, or the fallback.

        Raises:
            M2IBError: if it is out of range.
        """
        depth = len(self.context.model.encoder.towers[modality].blocks)
        layer = fallback if given is None else given
        if not 0 <= layer < depth:
            raise M2IBError(f"{modality}_layer={layer} is out of range: this tower has {depth} blocks, from 0")
        return layer


METHODS: Registry[type[Method]] = Registry("attribution method", "register_method")


def register_method(name: str, method: type[Method]) -> None:
    """Add a method under a ``method.name``.

    Raises:
        ValueError: if the name is taken.
    """
    METHODS.register(name, method)


def make_method(text: str, context: Context) -> Method:
    """A method from its name, and options after a colon: ``"rise"``, ``"rise:samples=1000"``.

    ``m2ib`` takes the keys of the bottleneck: ``"m2ib:image.layer=2,image.beta=0.1"``. Every method takes ``smooth``:
    the picture's map is then blurred by a Gaussian of so many patches.

    Raises:
        M2IBError: on an unknown method (lists those that exist) or option (lists the method's), or a wrong value.
    """
    sigma = smoothing(text)
    if sigma:
        return Smoothed(make_method(without_smooth(text), context), sigma)
    name, options = parse_method(without_smooth(text))
    method = METHODS.get(name)
    parameters = inspect.signature(method.__init__).parameters
    known = [key for key, parameter in parameters.items() if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        for key, value in options.items():
            if key not in known:
                has = f"it has {', '.join(known)}.{nearest(key, known)}" if known else "it has none"
                raise M2IBError(f"method {name!r} has no option {key!r}: {has}")
            if type(value) is not int:
                raise M2IBError(f"method {text!r}: {key} must be a whole number, got {value!r}")
    with naming(text):
        return method(context, **options)


def without_smooth(text: str) -> str:
    """The method's name and options without the one that all have.

    >>> without_smooth("rise:samples=100,smooth=0.5"), without_smooth("m2ib:smooth=1")
    ('rise:samples=100', 'm2ib')
    """
    name, _, rest = text.partition(":")
    options = ",".join(word for word in rest.split(",") if not word.startswith("smooth="))
    return f"{name}:{options}" if options else name


def smoothing(text: str) -> float:
    """How many patches wide the map is blurred; 0 for not at all.

    Raises:
        M2IBError: if that is no such number.
    """
    sigma = parse_method(text)[1].get("smooth", 0)
    if isinstance(sigma, bool) or not isinstance(sigma, int | float) or not 0 <= sigma <= 100:
        raise M2IBError(f"method {text!r}: smooth must be a number of patches, from 0 to 100, got {sigma!r}")
    return float(sigma)


class Smoothed(Method):
    """Another method's maps, the picture's blurred by a Gaussian.

    Args:
        method: the other.
        sigma: in patches. At the borders, what is inside is weighed alone.
    """

    def __init__(self, method: Method, sigma: float) -> None:
        super().__init__(method.context)
        self.method = method
        self.sigma = sigma
        self.random, self.pair_specific = method.random, method.pair_specific  # type: ignore[misc] # of this one

    @override
    def at_work(self, device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
        return self.method.at_work(device, dtype)

    @override
    def __call__(self, batch: PairBatch) -> list[Attribution]:
        return [self._smoothed(result) for result in self.method(batch)]

    def _smoothed(self, result: Attribution) -> Attribution:
        if result.image is None:
            return result
        down, across = (_blurring(count, self.sigma) for count in result.image.saliency.shape)
        saliency = (down @ result.image.saliency @ across.T).astype(result.image.saliency.dtype)
        return replace(result, image=replace(result.image, saliency=saliency))

    @override
    def image_saliency(self, batch: PairBatch, clean: Clean) -> Tensor:
        raise NotImplementedError("call the method")

    @override
    def text_saliency(self, batch: PairBatch, clean: Clean) -> Tensor:
        raise NotImplementedError("call the method")


def _blurring(count: int, sigma: float) -> NDArray[np.float64]:
    """(count, count): what each place takes of each."""
    places = np.arange(count)
    weights = np.exp(-0.5 * ((places[:, None] - places[None]) / sigma) ** 2)
    return np.asarray(weights / weights.sum(1, keepdims=True))


@contextmanager
def naming(method: str) -> Iterator[None]:
    """Errors that are raised inside say which method they are about."""
    try:
        yield
    except M2IBError as error:
        raise M2IBError(f"method {method!r}: {error}") from None


def parse_method(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the options of ``"name:key=value,key=value"``; dotted keys nest.

    >>> parse_method("m2ib:steps=3,image.beta=0.2")
    ('m2ib', {'steps': 3, 'image': {'beta': 0.2}})

    Raises:
        M2IBError: if the options are not of that form.
    """
    name, _, rest = text.partition(":")
    words = [word for word in rest.split(",") if word]
    try:
        if not all("=" in word for word in words):
            raise ValueError
        options: Any = OmegaConf.to_container(OmegaConf.from_dotlist(words))
    except (ValueError, OmegaConfBaseException, yaml.YAMLError):
        raise M2IBError(f"method {text!r}: expected name, or name:option=value,option=value") from None
    return name, options


def at_least(name: str, value: int, least: int) -> int:
    """The value.

    Raises:
        M2IBError: if it is smaller than that.
    """
    if value < least:
        raise M2IBError(f"{name} must be at least {least}, got {value}")
    return value
