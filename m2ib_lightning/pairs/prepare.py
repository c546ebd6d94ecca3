"""From a source's pair to tensors: decoding, resizing, tokenising. Runs in the data loader's workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.pairs.framing import Framing
from m2ib_lightning.pairs.images import TIMEOUT, read_image
from m2ib_lightning.pairs.pair import Pair, PairBatch, PairSource, PreparedPair, RawPair
from m2ib_lightning.pairs.tokens import CaptionTokenizer
from m2ib_lightning.pairs.truth import OtherCaption, RawTruth, gibberish, read_truth
from m2ib_lightning.pairs.urls import UrlSettings, fetch_all, is_url

_PICTURE_SIZE = 512  # pixels, of the copy that is drawn on


class Preparer:
    """Turns pairs into what one model reads.

    Args:
        processor: the model's Hugging Face processor.
        max_tokens: the text tower's limit.
        padding: the tokenizer's ``padding`` argument, from the family.
        fit: how pictures are fitted into the model's input (``Framing``); None for the processor's own way.
        image_timeout: seconds after which an image that is still being read counts as broken.
        urls: whether and how images at URLs are downloaded.

    Raises:
        M2IBError: if the processor has no tokenizer, or fits pictures in a way that is not known.
    """

    def __init__(
        self,
        processor: Any,
        max_tokens: int,
        padding: bool | str = True,
        *,
        fit: str | None = None,
        image_timeout: float = TIMEOUT,
        urls: UrlSettings | None = None,
    ) -> None:
        if not image_timeout > 0:
            raise M2IBError(f"data.image_timeout must be a number of seconds above 0, got {image_timeout}")
        self.processor = processor
        self.tokenizer = CaptionTokenizer(getattr(processor, "tokenizer", None), max_tokens)
        self.framing = Framing(processor.image_processor, fit)
        self.padding = padding
        self.image_timeout = image_timeout
        self.urls = urls or UrlSettings()

    def with_options(
        self, *, fit: str | None, image_timeout: float = TIMEOUT, urls: UrlSettings | None = None
    ) -> Preparer:
        """The same with another ``fit``, another time limit, other settings for URLs."""
        limit = self.tokenizer.max_tokens
        return Preparer(self.processor, limit, self.padding, fit=fit, image_timeout=image_timeout, urls=urls)

    def download(self, raws: Sequence[RawPair]) -> list[RawPair]:
        """The pairs with their images at URLs downloaded, several at a time, where that is allowed."""
        places = [place for place, raw in enumerate(raws) if isinstance(raw.image, str) and is_url(raw.image)]
        found = list(raws)
        if self.urls.allow and places:
            fetched = fetch_all([str(raws[place].image) for place in places], self.urls)
            for place, image in zip(places, fetched, strict=True):
                failed = isinstance(image, PairError)
                found[place] = replace(raws[place], **{"error": str(image)} if failed else {"image": image})
        return found

    def prepare(
        self, raw: RawPair, *, keep_picture: bool, image_only: bool = False, position: int = 0
    ) -> PreparedPair | Pair:
        """The pair and its tensors, or a ``Pair`` with ``error``. ``image_only`` leaves the caption as it is."""
        values: dict[str, Any] = {
            "key": raw.key,
            "id": raw.id if raw.id is not None else raw.key,
            "image": raw.uri,
            "caption": raw.caption if isinstance(raw.caption, str) else None,  # a list is no caption of a row
            "position": position,
        }
        try:
            if raw.error is not None:
                raise PairError(raw.error)
            pixels, seen = self._picture(raw.image, keep_picture)
            ids, read = ([], {}) if image_only else self.read_caption(raw.caption)
            if raw.truth is not None:
                seen["truth"] = read_truth(raw.truth, seen["image_size"], self.image_timeout)
        except Exception as error:  # whatever a processor or a tokenizer makes of it, the other pairs go on
            why = str(error) if isinstance(error, PairError) else f"{type(error).__name__}: {error}"
            return Pair(**values, error=why)
        return PreparedPair(Pair(**values, **seen, **read), pixels, ids)

    def _picture(self, image: Any, keep: bool) -> tuple[Tensor, dict[str, Any]]:
        """The image tower's input, and what a ``Pair`` says of the image."""
        if image is None:
            raise PairError("the image is missing (a null cell)")
        picture, animated = read_image(image, self.image_timeout)
        pixels, crop = self.framing(picture)
        seen: dict[str, Any] = {"image_size": picture.size, "crop": crop, "animated": animated}
        if keep:
            picture.thumbnail((_PICTURE_SIZE, _PICTURE_SIZE), Image.Resampling.LANCZOS)
            seen["picture"] = picture
        return pixels, seen

    def read_caption(self, caption: Any) -> tuple[list[int], dict[str, Any]]:
        """The text tower's input, and what a ``Pair`` says of the caption.

        Raises:
            PairError: if it holds no word.
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
        found = self.tokenizer(caption)
        return found.ids, {
            "tokens": found.tokens,
            "token_offsets": found.offsets,
            "token_positions": found.positions,
            "truncated": found.truncated,
            "unknown": found.unknown,
        }

    def collate(self, items: Sequence[PreparedPair | Pair]) -> PairBatch:
        """One batch, captions padded on the right; without captions, images only.

        Pairs stand by the length of their captions, so that neighbours, which share a chunk, need little padding.
        """
        good = [item for item in items if isinstance(item, PreparedPair)]
        good.sort(key=lambda item: len(item.input_ids))
        failed = [item for item in items if isinstance(item, Pair)]
        order = [(item.pair if isinstance(item, PreparedPair) else item).key for item in items]
        if not good:
            return PairBatch([], failed, {}, {}, order)
        pixels = torch.stack([item.pixel_values for item in good])
        captions = [list(item.input_ids) for item in good]
        text = self.pad(captions) if all(captions) else {}
        return PairBatch([item.pair for item in good], failed, {"pixel_values": pixels}, text, order)

    def pad(self, captions: list[list[int]]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask`` (B, T) of tokenised captions."""
        padded = self.tokenizer.tokenizer.pad(
            {"input_ids": captions},
            padding=self.padding,
            max_length=self.tokenizer.max_tokens if self.padding == "max_length" else None,
            padding_side="right",
            return_tensors="pt",
        )
        return dict(padded)


class PairDataset(Dataset[PreparedPair | Pair]):
    """A source seen through a preparer.

    Args:
        source: the pairs.
        preparer: makes them tensors.
        pictures: the first so many keep a copy to draw on; -1 for all.
        probed: the first so many get other captions: gibberish, and that of another pair of the source.
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
        """A batch, as the data loader asks for it: downloads go side by side."""
        places = [int(index) for index in indices]  # also of an array
        raws = self.preparer.download([self._raw(place) for place in places])
        return [
            self.preparer.prepare(raw, keep_picture=self.pictures < 0 or place < self.pictures, position=place)
            for raw, place in zip(raws, places, strict=True)
        ]

    def _raw(self, place: int) -> RawPair:
        raw = self.source[place]
        if place >= self.probed or not isinstance(raw.caption, str):
            return raw
        truth = raw.truth or RawTruth()
        truth = truth.with_other(OtherCaption("gibberish", gibberish(raw.key, len(raw.caption.split()))))
        neighbour = place ^ 1 if place ^ 1 < len(self.source) else max(0, place - 1)  # whatever data.limit is
        other = self.source[neighbour].caption
        if isinstance(other, str) and other.strip() and other != raw.caption:
            truth = truth.with_other(OtherCaption("shuffled", other))
        return replace(raw, truth=truth)
