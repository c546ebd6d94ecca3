"""The tokenizer of the scenes: a real ``CLIPTokenizer`` in which every word of the vocabulary is one token."""

from __future__ import annotations

import string
from collections import Counter
from itertools import pairwise

from transformers import CLIPTokenizer

from m2ib_lightning.scenes.vocabulary import WORDS

BOS, EOS, PAD, UNK = "<|startoftext|>", "<|endoftext|>", "<pad>", "<unk>"
SPECIALS = (BOS, EOS, PAD, UNK)
BOS_ID, EOS_ID, PAD_ID, UNK_ID = range(4)  # EOS must not be 2: CLIP then pools at argmax(input_ids)
MAX_TOKENS = 32

_END = "</w>"


def build_tokenizer() -> CLIPTokenizer:
    """Train a byte-pair encoding on the word list until each word is a single token.

    Raises:
        RuntimeError: if a word of the vocabulary is not one token, because the merges are wrong.
    """
    vocabulary = {token: index for index, token in enumerate(SPECIALS)}
    tokens = [word + _END for word in WORDS]
    letters = [letter + end for end in ("", _END) for letter in string.ascii_lowercase]
    merges = _train_merges()
    for token in [*tokens, *letters, *("".join(pair) for pair in merges)]:
        vocabulary.setdefault(token, len(vocabulary))
    tokenizer = CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        model_max_length=MAX_TOKENS,
    )
    for word in WORDS:
        if tokenizer(word)["input_ids"] != [BOS_ID, vocabulary[word + _END], EOS_ID]:
            raise RuntimeError(f"the word {word!r} is not one token: {tokenizer.tokenize(word)}")
    return tokenizer


def _train_merges() -> list[tuple[str, str]]:
    """Merge the most frequent pair until every word is one piece; the merges are in the order in which they apply."""
    pieces = {word: [*word[:-1], word[-1] + _END] for word in WORDS}
    merges = []
    while any(len(parts) > 1 for parts in pieces.values()):
        pairs = Counter(pair for parts in pieces.values() for pair in pairwise(parts))
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        pieces = {word: _merged(parts, best) for word, parts in pieces.items()}
    return merges


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair and not merged[-1].endswith(_END):
            merged[-1] += part
        else:
            merged.append(part)
    return merged
