"""The options of ``explain`` and ``ground``: settings by name, presets, and names that are unknown."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from PIL import Image

from m2ib_lightning import Attribution, explain, ground, load_model
from m2ib_lightning.api.explain_options import DEFAULTS, OF_BOTH_TOWERS, Options, bottleneck_values, complete
from m2ib_lightning.datamodules.scenes import SceneSource
from m2ib_lightning.errors import M2IBError

EXAMPLE = SceneSource(0, 1).example(0)
PICTURE, CAPTION = Image.fromarray(EXAMPLE.scene.image), EXAMPLE.caption.text
QUICK: Any = {"steps": 2, "bottleneck": {"noise_samples": 2, "path": 1}}


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model("scenes")


def assert_equal(a: Attribution, b: Attribution) -> None:
    assert np.array_equal(a.image_saliency, b.image_saliency)
    assert np.array_equal(a.text_saliency, b.text_saliency)


def test_a_setting_by_name_is_that_of_both_towers(model: Any) -> None:
    tower: Any = {"layer": 0, "beta": 0.3, "sigma": 0.5, "granularity": "element", "prior": "unit"}
    named = explain(PICTURE, CAPTION, model=model, **tower, **QUICK)
    nested = {**QUICK["bottleneck"], "steps": QUICK["steps"], "image": tower, "text": tower}
    assert_equal(named, explain(PICTURE, CAPTION, model=model, bottleneck=nested))


def test_a_setting_by_name_and_one_of_a_tower_go_together() -> None:
    values = bottleneck_values(complete({"beta": 0.3, "steps": 4, "bottleneck": {"image": {"layer": 1}, "lr": 0.5}}))
    assert values == {"image": {"layer": 1, "beta": 0.3}, "text": {"beta": 0.3}, "lr": 0.5, "steps": 4}


def test_the_users_dictionary_stays_as_it_is() -> None:
    given = {"image": {"layer": 1}}
    bottleneck_values(complete({"beta": 0.3, "bottleneck": given}))
    assert given == {"image": {"layer": 1}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 1, "bottleneck": {"text": {"layer": 2}}}, r"layer=1 sets both towers, .* text.layer=2: give one"),
        ({"beta": 1, "bottleneck": {"image": {"beta": 1}}}, r"beta=1 sets both towers, .* image.beta=1: give one"),
        ({"steps": 3, "bottleneck": {"steps": 4}}, r"steps=3 and bottleneck= has steps=4: give one"),
    ],
)
def test_a_setting_that_is_given_twice(options: Any, message: str) -> None:
    with pytest.raises(M2IBError, match=message):
        bottleneck_values(complete(options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "last"}, "layer must be a whole number, got 'last'"),
        ({"granularity": "tokens"}, "granularity must be one of element, token, got 'tokens'. Did you mean 'token'"),
        ({"bottleneck": {"image": 3}, "beta": 0.1}, "bottleneck.image must be a mapping"),
        ({"preset": "paper"}, "preset must be 'recommended' .* or 'published'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_a_value_out_of_range(options: Any, message: str, model: Any) -> None:
    with pytest.raises(M2IBError, match=message):
        explain(PICTURE, CAPTION, model=model, **options)


def test_the_published_preset_is_that_of_the_paper(model: Any) -> None:
    published = explain(PICTURE, CAPTION, model=model, preset="published")
    defaults: Any = {"granularity": "element", "prior": "unit", "beta": 0.1, "sigma": 1.0, "steps": 10}
    rest: Any = {"lr": 1.0, "noise_samples": 10, "centred_noise": False, "initial_alpha": 5.0, "path": 1}
    depths = {"image": {"layer": 2}, "text": {"layer": 1}}  # min(round(0.75 * depth), depth - 2) of 4 and 3 blocks
    assert_equal(published, explain(PICTURE, CAPTION, model=model, **defaults, bottleneck={**rest, **depths}))


@pytest.mark.parametrize("function", [explain, ground])
@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("stepps", "Did you mean 'steps'"),
        ("batchsize", "Did you mean 'batch_size'"),
        ("againts", "Did you mean 'against'"),
        ("lr", r"It is a setting: bottleneck=\{'lr': ...\}"),
        ("zzz", "It has image, text, .* model, processor"),
    ],
)
def test_an_unknown_argument_is_refused_before_any_work(function: Any, name: str, advice: str) -> None:
    with pytest.raises(TypeError, match=rf"{function.__name__}\(\) has no argument '{name}'.*{advice}"):
        function("there is no such picture", CAPTION, **{name: 1})


@pytest.mark.parametrize("function", [explain, ground])
def test_the_signature_lists_the_options(function: Any) -> None:
    parameters = inspect.signature(function).parameters
    assert list(parameters)[:2] == ["image", "text"]
    assert list(parameters)[-len(DEFAULTS) :] == list(DEFAULTS)
    assert {name: parameters[name].default for name in DEFAULTS} == DEFAULTS


def test_each_option_has_a_default_and_a_line_in_the_documentation() -> None:
    assert set(DEFAULTS) == set(Options.__annotations__)
    assert set(OF_BOTH_TOWERS) < set(DEFAULTS)
    for name in DEFAULTS:
        assert f"        {name}: " in (explain.__doc__ or "")
