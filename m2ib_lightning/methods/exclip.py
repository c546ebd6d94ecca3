"""exCLIP: interactions of words and patches by integrated Jacobians of both towers.

Legend: B pairs, T tokens, P patches, D width, E embedding size, S steps, K cotangents.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor
from typing_extensions import override

from m2ib_lightning.config import MODALITIES, Modality
from m2ib_lightning.encoder.layout import Hidden
from m2ib_lightning.methods.by_name import register_method
from m2ib_lightning.methods.interactions import InteractionMethod
from m2ib_lightning.methods.method import Context, at_least
from m2ib_lightning.methods.scorer import Clean
from m2ib_lightning.pairs.pair import PairBatch


class ExCLIP(InteractionMethod):
    r"""exCLIP (Möller et al., TMLR 2025, arXiv 2408.14153): second-order integrated gradients.

    With the hidden states x of the picture and y of the caption at a layer, references :math:`x_0, y_0`, embeddings
    :math:`e_I, e_T` and the Jacobians J averaged over the line from the reference, the interaction of patch i and
    token t is

    .. math::
        A_{it} = \frac{1}{|e_I| |e_T|} \sum_{c, d} (x - x_0)_{ic} \, (J_I^\top J_T)_{ic,td} \, (y - y_0)_{td}

    Over all tokens of both towers, special ones included, they sum to the product of :math:`e_I(x) - e_I(x_0)` and
    :math:`e_T(y) - e_T(y_0)` over the same lengths. Only words and patches get into the maps. The paper's reference
    caption is padding. Here it is the caption with its words removed as in RISE, so that both have one length; the
    reference picture is 0, as in the paper.

    The caption's Jacobian takes one backward pass for each of the E channels. The picture's takes one for each word:
    A needs only its products with the vectors :math:`J_T (y - y_0)_t`. The integral is a midpoint sum; the authors'
    code takes the right ends, and by default cuts at the input of the last block.

    Args:
        context: the model and the settings to build on.
        image_layer: block of the image tower, from 0, whose output is cut; by default the bottleneck's layer.
        text_layer: block of the text tower, counted the same way.
        steps: number S of points of the sum.
    """

    def __init__(
        self, context: Context, *, image_layer: int | None = None, text_layer: int | None = None, steps: int = 10
    ) -> None:
        super().__init__(context)
        options: dict[Modality, int | None] = {"image": image_layer, "text": text_layer}
        self.layers: dict[Modality, int] = {
            modality: context.model.encoder.towers[modality].resolve_layer(
                context.settings.tower(modality).layer if options[modality] is None else options[modality]
            )
            for modality in MODALITIES
        }
        self.steps = at_least("steps", steps, 1)

    @override
    def interactions(self, batch: PairBatch, clean: Clean) -> Tensor:
        words = None if batch.targets is not None else self.scorer.words(batch).words
        prefix_tokens = self.context.model.encoder.towers["image"].spec.prefix_tokens
        return self.of_tokens(batch, clean, words)[:, :, prefix_tokens:]

    def of_tokens(self, batch: PairBatch, clean: Clean, used: Tensor | None = None) -> Tensor:
        """Return the interactions of all tokens of the pictures, (B, tokens of the captions, tokens of the pictures).

        Args:
            batch: the pairs.
            clean: their embeddings.
            used: (B, T) tokens of the captions that are needed; the others get zeros. None for all, special ones
                included.
        """
        directions = self._directions(batch, clean)  # (B, T, E)
        tower = self.context.model.encoder.towers["image"]
        inputs = batch.inputs["image"]
        blank = inputs | {"pixel_values": torch.zeros_like(inputs["pixel_values"])}
        hidden, reference = (tower.prefix(given, self.layers["image"]) for given in (inputs, blank))
        found = directions.new_zeros(*directions.shape[:2], hidden.z.shape[1])
        for row, length in enumerate(clean.embeddings["image"].norm(dim=-1)):
            needed = slice(None) if used is None else used[row]
            alone = Hidden(hidden.z[row : row + 1], hidden.layout.rows(slice(row, row + 1)))
            found[row, needed] = self._pull_back("image", alone, reference.z[row], directions[row, needed]) / length
        return found

    def _directions(self, batch: PairBatch, clean: Clean) -> Tensor:
        """Return the change (B, T, E) of the caption's embedding by each token, over its length."""
        unit = F.normalize(clean.embeddings["text"], dim=-1)
        if batch.targets is not None:
            return unit[:, None]
        words, tower = self.scorer.words(batch), self.context.model.encoder.towers["text"]
        layout, layer = words.hidden.layout, self.layers["text"]
        absent = words.keep(torch.zeros_like(words.words, dtype=words.absent.dtype))
        with torch.no_grad():
            hidden, reference = (tower.advance(z, -1, layer, layout) for z in (words.hidden.z, absent))
        channels = torch.eye(unit.shape[1], dtype=unit.dtype, device=unit.device)
        rows = []
        for row, length in enumerate(layout.lengths()):
            part = Hidden(hidden[row : row + 1, :length], layout.rows(slice(row, row + 1)).cut(length))
            pulled = self._pull_back("text", part, reference[row, :length], channels)  # (E, length)
            rows.append(F.pad(pulled.T, (0, 0, 0, hidden.shape[1] - length)))
        return torch.stack(rows) / clean.embeddings["text"].norm(dim=-1)[:, None, None]

    def _pull_back(self, modality: Modality, hidden: Hidden, reference: Tensor, cotangents: Tensor) -> Tensor:
        """Return the effect (K, T) of each token on the products of the embedding and the cotangents (K, E).

        Copies of the S points carry one cotangent each. So few passes do many, and memory is bounded.
        """
        tower, at_a_time = self.context.model.encoder.towers[modality], self.scorer.at_a_time(modality)
        change = hidden.z[0] - reference  # (T, D)
        effects = cotangents.new_zeros(len(cotangents), len(change))
        middles = (torch.arange(self.steps, device=change.device, dtype=change.dtype) + 0.5) / self.steps
        for part in middles.split(at_a_time):
            copies = max(1, min(len(cotangents), at_a_time // len(part)))
            points = (reference + part[:, None, None] * change).repeat(copies, 1, 1).requires_grad_()
            with torch.enable_grad():
                embeddings = tower.suffix(points, self.layers[modality], hidden.layout.repeated(len(points)))
                embeddings = embeddings.unflatten(0, (copies, len(part)))  # (copies, S, E)
                for start in range(0, len(cotangents), copies):
                    used = cotangents[start : start + copies]
                    products = (embeddings[: len(used)] * used[:, None]).sum()
                    last = start + copies >= len(cotangents)
                    (gradient,) = torch.autograd.grad(products, points, retain_graph=not last)
                    summed = gradient.unflatten(0, (copies, len(part)))[: len(used)].sum(1)
                    effects[start : start + copies] += (summed * change).sum(-1)
        return effects / self.steps


register_method("exclip", ExCLIP)
