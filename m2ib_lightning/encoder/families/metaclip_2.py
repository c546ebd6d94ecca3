"""MetaCLIP 2: CLIP's towers, with a multilingual vocabulary. It always pools at the EOS token of its configuration."""

from __future__ import annotations

from dataclasses import replace

from m2ib_lightning.encoder.families.clip import IMAGE, TEXT
from m2ib_lightning.encoder.families.family import About, Family, register_family
from m2ib_lightning.encoder.families.reading import first_of, up_to

_end_of_text = first_of(lambda model: model.text_model.config.eos_token_id)  # an id of 2 is no legacy value here

register_family(
    "MetaClip2Model",
    Family(
        IMAGE,
        replace(TEXT, pooled=_end_of_text, reads=up_to(_end_of_text)),
    ),
    About("MetaCLIP 2", "facebook/metaclip-2-worldwide-huge-quickgelu", "random weights"),
)
