"""The check, before a training, that the cut towers are the model's own function."""

from __future__ import annotations

import torch

from m2ib_lightning.config import Modality
from m2ib_lightning.encoder.frozen import frozen
from m2ib_lightning.encoder.identity import PAIRS, IdentityCheck
from m2ib_lightning.encoder.suffix import Suffix
from m2ib_lightning.tasks.work import Work


def check_towers(work: Work) -> None:
    """Compare the towers with the model on the first pairs of a training; attribution does so in its first batch.

    Raises:
        M2IBError: if a tower is not the model's own function.
    """
    encoder, dtype = work.model.encoder, torch.promote_types(work.model.dtype, torch.float32)

    def suffix_of(modality: Modality) -> Suffix:
        layer = work.settings.tower(modality).layer
        assert layer is not None
        return Suffix(encoder.towers[modality], layer, dtype)

    batch = next((batch for batch in work.datamodule.calibration_batches(PAIRS) if len(batch)), None)
    if batch is not None:
        with frozen(encoder.model, dtype=dtype):
            IdentityCheck(encoder)(batch.to(next(encoder.model.parameters()).device).tower_inputs, suffix_of)
