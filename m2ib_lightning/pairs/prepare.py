"""Prepare pairs as tensors in the data loader's workers: decode, resize, tokenise, pad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from m2ib_lightning.errors import PairError
from m2ib_lightning.pairs.exif import Turn
from m2ib_lightning.pairs.fingerprint import fingerprint
from m2ib_lightning.pairs.image_rules import ImageRules
from m2ib_lightning.pairs.images import read_image
from m2ib_lightning.pairs.pair import Pair, PairBatch, PairSource, PreparedPair, RawPair
from m2ib_lightning.pairs.tokens import CaptionTokenizer
from m2ib_lightning.pairs.truth import OtherCaption, RawTruth, gibberish, read_truth
from m2ib_lightning.pairs.units.unit import Unit, has_words
from m2ib_lightning.pairs.units.unit_inputs import UnitInputs
from m2ib_lightning.pairs.units.unit_rule import UnitRule
from m2ib_lightning.pairs.urls.addresses import is_url
from m2ib_lightning.pairs.urls.fetch import fetch_all
from m2ib_lightning.pairs.urls.url_settings import UrlSettings
from m2ib_lightning.pairs.variable_framing import make_framing

_PICTURE_SIZE = 512  # largest side in pixels of the copy for display


class Preparer:
    """Prepares pairs as inputs of one model.

    Args:
        processor: Hugging Face processor of the model, or another object with ``tokenizer``, ``image_processor`` and,
            if captions are cleaned first, ``clean``.
        max_tokens: longest sequence that the text tower reads.
        padding: ``padding`` argument of the tokenizer, from the model family.
        fit: how a picture is fitted to the model's input (``Framing``); None for the processor's default.
        images: formats, size and time limit of images; None for the defaults.
        urls: settings for images at URLs; None downloads nothing.
        units: how the units of captions are found, for grounding; None finds none.

    Raises:
        M2IBError: if ``fit`` is unknown, or the processor is not supported.
    """

    def __init__(
        self,
        processor: Any,
        max_tokens: int,
        padding: bool | str = True,
        *,
        fit: str | None = None,
        images: ImageRules | None = None,
        urls: UrlSettings | None = None,
        units: UnitRule | None = None,
    ) -> None:
        self.processor = processor
        tokenizer, clean = getattr(processor, "tokenizer", None), getattr(processor, "clean", None)
        self.tokenizer = CaptionTokenizer(tokenizer, max_tokens, clean)
        self.framing = make_framing(processor.image_processor, fit)
        self.padding = padding
        self.images = images or ImageRules()
        self.urls = urls or UrlSettings()
        self.units = units

    def with_options(
        self,
        *,
        fit: str | None,
        images: ImageRules | None = None,
        urls: UrlSettings | None = None,
        units: UnitRule | None = None,
    ) -> Preparer:
        """Return a preparer for the same model with other options."""
        limit = self.tokenizer.max_tokens
        return Preparer(self.processor, limit, self.padding, fit=fit, images=images, urls=urls, units=units)

    def download(self, raws: Sequence[RawPair]) -> list[RawPair]:
        """Download the images at URLs of several pairs at once, if downloads are allowed.

        Returns:
            The pairs in the same order. A failed download becomes the ``error`` of its pair.
        """
        indices = [index for index, raw in enumerate(raws) if isinstance(raw.image, str) and is_url(raw.image)]
        pairs = list(raws)
        if self.urls.allow and indices:
            images = fetch_all([str(raws[index].image) for index in indices], self.urls, self.images)
            for index, image in zip(indices, images, strict=True):
                failed = isinstance(image, PairError)
                pairs[index] = replace(raws[index], **{"error": str(image)} if failed else {"image": image})
        return pairs

    def prepare(
        self, raw: RawPair, *, keep_picture: bool, image_only: bool = False, position: int = 0
    ) -> PreparedPair | Pair:
        """Prepare one pair.

        Args:
            raw: pair from the source.
            keep_picture: whether to keep a copy for display.
            image_only: whether to skip the caption.
            position: index of the pair in the source.

        Returns:
            The pair and its tensors, or a ``Pair`` with ``error``.
        """
        fields: dict[str, Any] = {
            "key": raw.key,
            "id": raw.id if raw.id is not None else raw.key,
            "image": raw.uri,
            "caption": raw.caption if isinstance(raw.caption, str) else None,  # a list or a number is not a caption
            "position": position,
            "fingerprint": raw.fingerprint,
            "sentence": raw.sentence,
        }
        try:
            if raw.error is not None:
                raise PairError(raw.error)
            pixels, image_fields, turn = self._read_picture(raw.image, keep_picture)
            ids, text_fields = ([], {}) if image_only else self.read_caption(raw.caption)
            unit_ids: dict[int, list[int]] = {}
            if self.units is not None and text_fields:
                text_fields["units"], unit_ids = self._read_units(self.units, raw, text_fields)
            if raw.truth is not None:
                image_fields["truth"] = read_truth(raw.truth, image_fields["image_size"], self.images, turn)
        except Exception as error:  # a processor or tokenizer may raise anything; the other pairs continue
            why = str(error) if isinstance(error, PairError) else f"{type(error).__name__}: {error}"
            return Pair(**fields, error=why)
        return PreparedPair(Pair(**fields, **image_fields, **text_fields), pixels, ids, unit_ids)

    def _read_picture(self, image: Any, keep: bool) -> tuple[Tensor, dict[str, Any], Turn | None]:
        """The image tower's input, the fields of a ``Pair`` about the image, and its EXIF rotation."""
        if image is None:
            raise PairError("the image is missing (a null cell)")
        reading = read_image(image, self.images)
        picture = reading.picture
        pixels, box = self.framing(picture)
        crop = reading.box_in_image(box)
        fields: dict[str, Any] = {"image_size": reading.size, "crop": crop, "animated": reading.animated}
        if keep:
            picture.thumbnail((_PICTURE_SIZE, _PICTURE_SIZE), Image.Resampling.LANCZOS)
            fields["picture"] = picture
        return pixels, fields, reading.turn

    def read_caption(self, caption: Any) -> tuple[list[int], dict[str, Any]]:
        """Tokenise a caption.

        Returns:
            The token ids, the text tower's input, and the fields of a ``Pair`` about the caption.

        Raises:
            PairError: if the caption contains no word or no valid text.
        """
        if caption is None:
            raise PairError("the caption is missing (a null cell)")
        if not isinstance(caption, str):
            raise PairError(f"the caption must be text, got {type(caption).__name__}")
        if any("\ud800" <= character <= "\udfff" for character in caption):
            raise PairError("the caption holds half characters (surrogates): it was not decoded from valid text")
        if not caption.strip():
            raise PairError("the caption is empty: there is no word to explain")
        if not any(character.isprintable() and not character.isspace() for character in caption):
            raise PairError("the caption holds only control characters: there is no word to explain")
        encoded = self.tokenizer(caption)
        return encoded.ids, {
            "tokens": encoded.tokens,
            "token_offsets": encoded.offsets,
            "token_positions": encoded.positions,
            "truncated": encoded.truncated,
            "unknown": encoded.unknown,
        }

    def _read_units(
        self, rule: UnitRule, raw: RawPair, text_fields: dict[str, Any]
    ) -> tuple[list[Unit], dict[int, list[int]]]:
        """The units of a caption, and the tokens of the text of each unit that the model reads."""
        caption = str(raw.caption)
        units = rule.find(caption, raw.spans)
        # What lies behind the last token that is read must not move up when a unit is left out.
        end = max(stop for _, stop in text_fields["token_offsets"]) if text_fields["truncated"] else len(caption)
        read = caption[:end]
        texts = {k: rule.other_text(read, unit) for k, unit in enumerate(units) if unit.end <= end}
        return units, {k: self.read_caption(text)[0] for k, text in texts.items() if has_words(text)}

    def collate(self, items: Sequence[PreparedPair | Pair]) -> PairBatch:
        """Collate pairs as one batch, with captions padded on the right; pairs without captions give images only.

        The batch is sorted by caption length. Neighbours share a chunk, and so need little padding.
        """
        good = [item for item in items if isinstance(item, PreparedPair)]
        good.sort(key=lambda item: len(item.input_ids))
        failed = [item for item in items if isinstance(item, Pair)]
        order = [(item.pair if isinstance(item, PreparedPair) else item).key for item in items]
        if not good:
            return PairBatch([], failed, {}, {}, order)
        captions = [list(item.input_ids) for item in good]
        image, text = _image_inputs([item.pixel_values for item in good]), self.pad(captions) if all(captions) else {}
        units = None if self.units is None else self._unit_inputs(self.units, good)
        return PairBatch([item.pair for item in good], failed, image, text, order, units=units)

    def _unit_inputs(self, rule: UnitRule, items: Sequence[PreparedPair]) -> UnitInputs:
        places = [(row, unit) for row, item in enumerate(items) for unit in item.unit_ids]
        texts = [ids for item in items for ids in item.unit_ids.values()]
        against = None if rule.against is None else self.pad([self.read_caption(rule.against)[0]])
        return UnitInputs(places, rule.target, self.pad(texts) if texts else {}, against)

    def pad(self, captions: list[list[int]]) -> dict[str, Tensor]:
        """Return the ``input_ids`` and ``attention_mask`` (B, T) of tokenised captions, padded on the right."""
        padded = self.tokenizer.tokenizer.pad(
            {"input_ids": captions},
            padding=self.padding,
            max_length=self.tokenizer.max_tokens if self.padding == "max_length" else None,
            padding_side="right",
            return_tensors="pt",
        )
        return dict(padded)


def _image_inputs(pictures: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the image tower's inputs for pictures (3, H, W). Pictures of several sizes are flattened."""
    if len({picture.shape for picture in pictures}) == 1:
        return {"pixel_values": torch.stack(list(pictures))}
    sizes = torch.tensor([picture.shape[-2:] for picture in pictures])
    rows = pad_sequence([picture.flatten(1).T for picture in pictures], batch_first=True)  # (B, longest, 3)
    return {"pixel_values": rows.transpose(1, 2).contiguous(), "picture_sizes": sizes}


class PairDataset(Dataset[PreparedPair | Pair]):
    """The prepared pairs of a source.

    Args:
        source: raw pairs by position.
        preparer: preparer of the model.
        pictures: number of first pairs that keep a copy for display; -1 for all.
        probed: number of first pairs that get other captions: gibberish, and the caption of another pair.
    """

    def __init__(self, source: PairSource, preparer: Preparer, pictures: int = 0, probed: int = 0) -> None:
        self.source = source
        self.preparer = preparer
        self.pictures = pictures
        self.probed = probed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> PreparedPair | Pair:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[PreparedPair | Pair]:
        """Prepare several pairs, whose images are downloaded in parallel; the data loader calls this."""
        positions = [int(index) for index in indices]  # they may be NumPy integers
        raws = self.preparer.download([self._raw_pair(position) for position in positions])
        return [
            self.preparer.prepare(raw, keep_picture=self.pictures < 0 or position < self.pictures, position=position)
            for raw, position in zip(raws, positions, strict=True)
        ]

    def _raw_pair(self, position: int) -> RawPair:
        """A pair from the source, with other captions if it is probed."""
        raw = self.source[position]
        raw = replace(raw, fingerprint=fingerprint(raw))
        if position >= self.probed or not isinstance(raw.caption, str):
            return raw
        truth = raw.truth or RawTruth()
        truth = truth.with_other(OtherCaption("gibberish", gibberish(raw.key, len(raw.caption.split()))))
        # the neighbour does not depend on data.limit
        neighbour = position ^ 1 if position ^ 1 < len(self.source) else max(0, position - 1)
        other = self.source[neighbour].caption
        if isinstance(other, str) and other.strip() and other != raw.caption:
            truth = truth.with_other(OtherCaption("shuffled", other))
        return replace(raw, truth=truth)
