"""From a source's pair to tensors: decoding, resizing, tokenising. Runs in the data loader's workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset

from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.images import open_image, seen_box
from m2ib_lightning.pairs import Pair, PairBatch, PairSource, PreparedPair, RawPair

_PICTURE_SIZE = 512  # pixels, of the copy that is drawn on


class Preparer:
    """Turns pairs into what one model reads.

    Args:
        processor: the model's Hugging Face processor.
        max_tokens: the text tower's limit.
        padding: the tokenizer's ``padding`` argument, from the family.

    Raises:
        M2IBError: if the tokenizer does not know where its tokens stand in the caption.
    """

    def __init__(self, processor: Any, max_tokens: int, padding: bool | str = True) -> None:
        if not getattr(getattr(processor, "tokenizer", None), "is_fast", False):
            raise M2IBError(
                f"the processor ({type(processor).__name__}) needs a fast tokenizer, one that knows where each token "
                "stands in the caption (a folder with tokenizer.json)"
            )
        self.tokenizer = processor.tokenizer
        self.image_processor = processor.image_processor
        self.max_tokens = max_tokens
        self.padding = padding

    def prepare(self, raw: RawPair, *, keep_picture: bool) -> PreparedPair | Pair:
        """The pair and its tensors, or a ``Pair`` with ``error``."""
        identity = raw.id if raw.id is not None else raw.key
        try:
            picture = open_image(_given(raw.image, "the image is missing (a null cell)"))
            caption = _given(raw.caption, "the caption is missing (a null cell)")
            if not isinstance(caption, str):
                raise PairError(f"the caption must be text, got {type(caption).__name__}: give one row per caption")
            if _has_surrogates(caption):
                raise PairError("the caption holds half characters (surrogates): it was not decoded from valid text")
            if not caption.strip():
                raise PairError("the caption is empty: there is no word to explain")
            pair, input_ids = self._tokenise(raw.key, identity, raw.uri, caption)
            pixel_values = self.image_processor(images=[picture], return_tensors="pt")["pixel_values"][0]
        except Exception as error:  # whatever a processor or a tokenizer makes of it, the other pairs go on
            why = str(error) if isinstance(error, PairError) else f"{type(error).__name__}: {error}"
            caption = raw.caption if isinstance(raw.caption, str) else None  # a list is no caption of a row
            return Pair(key=raw.key, id=identity, image=raw.uri, caption=caption, error=why)
        size = picture.size
        if keep_picture:
            picture.thumbnail((_PICTURE_SIZE, _PICTURE_SIZE), Image.Resampling.LANCZOS)
        values = pair.__dict__ | {
            "image_size": size,
            "crop": seen_box(self.image_processor, *size),
            "picture": picture if keep_picture else None,
        }
        return PreparedPair(Pair(**values), pixel_values, input_ids)

    def _tokenise(self, key: str, identity: str, uri: str, caption: str) -> tuple[Pair, list[int]]:
        encoded = self.tokenizer(
            caption,
            truncation=True,
            max_length=self.max_tokens,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_overflowing_tokens=True,
            split_special_tokens=True,  # "<|endoftext|>" in a caption is text: the tower must not stop there
        )
        encoding = encoded.encodings[0]
        ids: list[int] = list(encoding.ids)
        positions = [index for index, special in enumerate(encoding.special_tokens_mask) if not special]
        if not positions:
            raise PairError(f"the tokenizer finds no word in the caption {caption!r}")
        offsets = [(int(start), int(end)) for start, end in (encoding.offsets[index] for index in positions)]
        unknown_id = self.tokenizer.unk_token_id
        unknown = sum(ids[index] == unknown_id for index in positions)
        pair = Pair(
            key=key,
            id=identity,
            image=uri,
            caption=caption,
            tokens=[self._decode(ids[p], caption[s:e]) for p, (s, e) in zip(positions, offsets, strict=True)],
            token_offsets=offsets,
            token_positions=positions,
            truncated=bool(encoding.overflowing),
            unknown=0 if self.tokenizer.unk_token == self.tokenizer.eos_token else unknown,
        )
        return pair, ids

    def _decode(self, token: int, written: str) -> str:
        """The token as text; what the caption says where the token alone is no text (unknown, or part of a letter)."""
        text: str = self.tokenizer.decode([token]).strip()
        return written if "\N{REPLACEMENT CHARACTER}" in text or token == self.tokenizer.unk_token_id else text

    def collate(self, items: Sequence[PreparedPair | Pair]) -> PairBatch:
        """One batch, captions padded on the right."""
        good = [item for item in items if isinstance(item, PreparedPair)]
        failed = [item for item in items if isinstance(item, Pair)]
        order = [(item.pair if isinstance(item, PreparedPair) else item).key for item in items]
        if not good:
            return PairBatch([], failed, {}, {}, order)
        text = self.tokenizer.pad(
            {"input_ids": [list(item.input_ids) for item in good]},
            padding=self.padding,
            max_length=self.max_tokens if self.padding == "max_length" else None,
            padding_side="right",
            return_tensors="pt",
        )
        pixels = torch.stack([item.pixel_values for item in good])
        return PairBatch([item.pair for item in good], failed, {"pixel_values": pixels}, dict(text), order)


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _given(value: Any, complaint: str) -> Any:
    if value is None:
        raise PairError(complaint)
    return value


class PairDataset(Dataset[PreparedPair | Pair]):
    """A source seen through a preparer.

    Args:
        source: the pairs.
        preparer: makes them tensors.
        pictures: the first so many keep a copy to draw on; -1 for all.
    """

    def __init__(self, source: PairSource, preparer: Preparer, pictures: int = 0) -> None:
        self.source = source
        self.preparer = preparer
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> PreparedPair | Pair:
        keep = self.pictures < 0 or index < self.pictures
        return self.preparer.prepare(self.source[index], keep_picture=keep)
