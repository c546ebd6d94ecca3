"""The model, settings and pairs that a configuration names, loaded and checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from m2ib_lightning.config import Config
from m2ib_lightning.datamodules.base import DATAMODULES, PairDataModule
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.m2ib.explainer import resolve
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.m2ib.statistics import Statistics
from m2ib_lightning.methods import Context
from m2ib_lightning.models import LoadedModel, load_model
from m2ib_lightning.pairs.image_rules import ImageRules
from m2ib_lightning.pairs.units.unit_rule import UnitRule, UnitTarget
from m2ib_lightning.pairs.urls.url_settings import UrlSettings


@dataclass(frozen=True)
class Work:
    """The model, settings and pairs of a task; every rank loads them from the configuration.

    Attributes:
        config: the configuration.
        model: the loaded model.
        settings: settings of the bottlenecks, resolved for the model.
        datamodule: the data module, whose source is open.
        statistics: the priors from the model's folder and from ``bottleneck.statistics``.
    """

    config: Config
    model: LoadedModel
    settings: BottleneckSettings
    datamodule: PairDataModule
    statistics: Statistics

    @staticmethod
    def prepare(config: Config) -> Work:
        """Load the model and open the data source that a configuration names.

        Raises:
            M2IBError: if a name, a file or a setting is wrong.
        """
        datamodule_type = DATAMODULES.get(config.data.source)
        model = load_model(config.model.name)
        settings = resolve(_settings(config, model), model.encoder)
        data = config.data
        formats = data.image_formats or ()
        images = ImageRules(data.image_timeout, data.image_max_bytes, formats, data.window, data.annotated_as)
        units = _units(config) if config.task == "ground" else None
        preparer = model.preparer.with_options(fit=data.fit, images=images, urls=_urls(config), units=units)
        datamodule = datamodule_type.from_config(config, preparer)
        datamodule.setup("fit")
        return Work(config, model, settings, datamodule, _statistics(config.bottleneck.statistics, model))

    def context(self, statistics: Statistics | None = None) -> Context:
        """Return the context of attribution methods: the model, the settings, the priors and the seed.

        Args:
            statistics: all priors of the run; None for ``self.statistics``.
        """
        priors = self.statistics if statistics is None else statistics
        return Context(self.model, self.settings, priors, seed=self.config.seed, compile=self.config.model.compile)


def _settings(config: Config, model: LoadedModel) -> BottleneckSettings:
    values: dict[str, Any] = asdict(config.bottleneck)
    preset = values.pop("preset")
    for name in ("statistics", "enabled"):
        values.pop(name)
    base = model.preset if preset == "recommended" else BottleneckSettings()
    return base.override(values)


def _units(config: Config) -> UnitRule:
    keys = config.ground
    try:
        return UnitRule(keys.units, cast(UnitTarget, keys.target), keys.against)
    except M2IBError as error:
        raise M2IBError(f"ground.{error}") from None


def _statistics(file: str | None, model: LoadedModel) -> Statistics:
    """Return the statistics of the model's folder and of the user's file, which must fit the model."""
    model.statistics.check(model.encoder, f"the file of statistics in the model's folder {str(model.folder)!r}")
    if file is None:
        return model.statistics
    statistics = Statistics.load(file)
    statistics.check(model.encoder, f"bottleneck.statistics={file}")
    return model.statistics.updated(statistics)


def _urls(config: Config) -> UrlSettings:
    data = config.data
    return UrlSettings(
        allow=data.allow_urls,
        allow_private=data.allow_private_urls,
        timeout=data.url_timeout,
        max_bytes=data.url_max_bytes,
        retries=data.url_retries,
        connections=data.url_connections,
        cache=None if data.url_cache is None else Path(data.url_cache).expanduser(),
        check_cache=config.retry_failed,
    )
