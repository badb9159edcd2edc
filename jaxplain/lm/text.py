"""Units of a text: words, sentences, passages or messages, as groups of tokens."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

Span = tuple[int, int]

# A sentence ends with its mark, and whatever closes behind it, before a space and a new beginning.
_END = re.compile(
    r"""(?:[.!?…]+["'”’»)\]]*(?=\s+["'“‘«(\[]*[^\s\W_a-zß-öø-ÿ])|[。！？]+[”’」』）]*|\n+)""",
    re.VERBOSE,
)
# What a full stop shortens: no end, whatever follows.
_SHORT = re.compile(
    r"(?:^|[\s(\[\"'“‘])(?:[A-Z]|Mrs?|Ms|Drs?|Prof|St|Jr|Sr|vs|etc|cf|al|e\.g|i\.e|a\.m|p\.m|"
    r"approx|No|Nos|Fig|Figs|Eq|Sec|Vol|pp?|Ave|Inc|Ltd|Co|U\.S|U\.K)\.$"
)


@dataclasses.dataclass(frozen=True)
class Units:
    """The units of a text and the tokens of each.

    Attributes:
      labels: (tokens,), each token's unit, -1 for those that are never players.
      spans: each unit's (start, end) in the text.
      texts: each unit's text.
      roles: each unit's role in a chat, or None.
      fixed: the tokens that are never players, by number: special ones, a template's.
    """

    labels: np.ndarray
    spans: tuple[Span, ...]
    texts: tuple[str, ...]
    roles: tuple[str | None, ...]
    fixed: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.spans)


def units(
    text: str,
    offsets: Any,
    kind: str | Sequence[Span] = "sentence",
    *,
    messages: Sequence[Mapping[str, str]] | None = None,
    special: Any = None,
) -> Units:
    r"""Words, sentences, spans or messages of a text, as groups of tokens for `jaxplain.lm.cite`.

    Any tokenizer that gives offsets will do: `encoding.offsets` of tokenizers,
    `return_offsets_mapping=True` of transformers, `[(p.begin, p.end) for p in proto.pieces]` of
    sentencepiece.

    Args:
      text: the prompt, as it was tokenized.
      offsets: (tokens, 2), each token's start and end in the text, in characters; (0, 0) for
        special tokens.
      kind: "word" (between spaces), "sentence" (a line's end ends one too), "message" (with
        `messages`), or (start, end) spans of your own, which don't overlap.
      messages: the chat that a template made the text of, [{"role": …, "content": …}, …]: units lie
        inside contents, which are found in their order, and know their role; all that the template
        put around them is no player's.
      special: a mask (tokens,) of special tokens that stand in the text (tokenizers'
        `encoding.special_tokens_mask`): no player's either, and units end before them.

    Returns:
      `Units`: `.labels` (tokens,) and the units' `.spans`, `.texts`, `.roles`; `.fixed` lists the
      tokens outside of all units. A token belongs to the unit that it has most characters in, one
      of spaces alone to the unit before it. A unit that no token belongs to has no number.

    Raises:
      ValueError: offsets that don't fit the text or each other; spans outside the text, empty or
        overlapping; a message that is not in the text; an unknown kind; no unit at all.
      TypeError: text is no string, or offsets are no pairs of integers.

    Example:
      >>> import jaxplain as jxp
      >>> offsets = [(0, 0), (0, 2), (2, 5), (5, 6), (7, 10), (10, 11)]
      >>> found = jxp.lm.units("It ran. We sat.", [*offsets, (11, 14), (14, 15)])
      >>> found.texts, found.labels.tolist(), found.fixed
      (('It ran.', 'We sat.'), [-1, 0, 0, 0, 1, 1, 1, 1], (0,))
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, and is a {type(text).__name__}")
    pairs = _offsets(offsets, text)
    marked = _marked(special, len(pairs))
    parts = _around(_contents(text, messages), pairs[marked])
    if isinstance(kind, str):
        if kind not in _KINDS or (kind == "message" and messages is None):
            known = ", ".join(map(repr, _KINDS))
            raise ValueError(
                f"unknown kind {kind!r}: {known}, or spans"
                if kind not in _KINDS
                else "the units are messages, and `messages` are not given"
            )
        found = [
            (span, role) for (start, end), role in parts for span in _KINDS[kind](text, start, end)
        ]
    else:
        found = [(span, _role(span, parts)) for span in _spans(kind, text)]
    return _grouped(text, np.where(marked[:, None], 0, pairs), found)


def _offsets(offsets: Any, text: str) -> np.ndarray:
    try:
        pairs = np.asarray(offsets)
    except ValueError:
        pairs = np.zeros(0)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        raise TypeError(
            "offsets must be a (start, end) pair of integers for each token, and have the shape "
            f"{pairs.shape} and dtype {pairs.dtype}"
        )
    ends_first, outside = pairs[:, 0] > pairs[:, 1], (pairs < 0).any(1) | (pairs[:, 1] > len(text))
    for wrong, why in (
        (ends_first, "ends before it starts"),
        (outside, "lies outside of the text"),
    ):
        if wrong.any():
            token = int(np.argmax(wrong))
            raise ValueError(
                f"token {token} with offsets {tuple(map(int, pairs[token]))} {why}, which has "
                f"{len(text)} characters: are these the text and offsets of one tokenization?"
            )
    starts = pairs[pairs[:, 0] < pairs[:, 1], 0]
    if (np.diff(starts) < 0).any():
        raise ValueError("offsets must go forward through the text, from token to token")
    return pairs


def _contents(
    text: str, messages: Sequence[Mapping[str, str]] | None
) -> list[tuple[Span, str | None]]:
    """Where units may lie, with their role."""
    if messages is None:
        return [((0, len(text)), None)]
    found: list[tuple[Span, str | None]] = []
    behind = 0
    for number, message in enumerate(messages):
        content = message["content"].strip()
        start = text.find(content, behind)
        if start < 0:
            raise ValueError(
                f"message {number} ({message['role']}) is not in the text behind the ones before "
                f"it: {content[:40]!r}"
            )
        behind = start + len(content)
        found.append(((start, behind), message["role"]))
    return found


def _marked(special: Any, count: int) -> np.ndarray:
    mask = np.zeros(count, bool) if special is None else np.asarray(special).astype(bool)
    if mask.shape != (count,):
        raise ValueError(f"special is a mask of the {count} tokens, and has the shape {mask.shape}")
    return mask


def _around(
    parts: list[tuple[Span, str | None]], spans: np.ndarray
) -> list[tuple[Span, str | None]]:
    """What is left of parts of a text without some spans."""
    for begin, end in spans[spans[:, 0] < spans[:, 1]].tolist():
        parts = [
            (piece, role)
            for (start, stop), role in parts
            for piece in (
                [(start, stop)] if end <= start or stop <= begin else [(start, begin), (end, stop)]
            )
            if piece[0] < piece[1]
        ]
    return parts


def _role(span: Span, parts: list[tuple[Span, str | None]]) -> str | None:
    inside = (role for (start, end), role in parts if start <= span[0] and span[1] <= end)
    return next(inside, None)


def _spans(spans: Any, text: str) -> list[Span]:
    found = [(int(start), int(end)) for start, end in spans]
    for start, end in found:
        if not 0 <= start < end <= len(text):
            raise ValueError(
                f"the span ({start}, {end}) is empty, or not in {len(text)} characters"
            )
    for (_, end), (start, _) in itertools.pairwise(sorted(found)):
        if start < end:
            raise ValueError(f"spans overlap at character {start}")
    return found


def _words(text: str, start: int, end: int) -> Iterator[Span]:
    for match in re.finditer(r"\S+", text[start:end]):
        yield start + match.start(), start + match.end()


def _sentences(text: str, start: int, end: int) -> Iterator[Span]:
    begin = start
    for match in _END.finditer(text, start, end):
        sentence = text[begin : match.end()]
        if sentence.rstrip().endswith(".") and _SHORT.search(sentence.rstrip()):
            continue
        yield from _trimmed(text, begin, match.end())
        begin = match.end()
    yield from _trimmed(text, begin, end)


def _messages(text: str, start: int, end: int) -> Iterator[Span]:
    yield from _trimmed(text, start, end)


def _trimmed(text: str, start: int, end: int) -> Iterator[Span]:
    """The span without the spaces around it, where anything is left."""
    inner = text[start:end]
    if inner.strip():
        yield start + len(inner) - len(inner.lstrip()), start + len(inner.rstrip())


_KINDS = {"word": _words, "sentence": _sentences, "message": _messages}


def _grouped(text: str, pairs: np.ndarray, found: list[tuple[Span, str | None]]) -> Units:
    spans = np.array([span for span, _ in found]).reshape(-1, 2)
    of_token = np.full(len(pairs), -1)
    before = -1
    for token, (start, end) in enumerate(pairs.tolist()):
        if start == end:
            continue
        shared = np.minimum(spans[:, 1], end) - np.maximum(spans[:, 0], start)
        if len(spans) and shared.max() > 0:
            before = of_token[token] = int(np.argmax(shared))
        elif not text[start:end].strip() and before >= 0:
            of_token[token] = before
        else:
            before = -1  # a template's token; spaces behind it are the template's too
    kept = np.unique(of_token[of_token >= 0])
    if not len(kept):
        raise ValueError("the text has no unit with a token of its own")
    labels = np.where(of_token >= 0, np.searchsorted(kept, of_token), -1)
    chosen = [found[i] for i in kept]
    return Units(
        labels,
        tuple(span for span, _ in chosen),
        tuple(text[start:end] for (start, end), _ in chosen),
        tuple(role for _, role in chosen),
        tuple(np.flatnonzero(labels < 0).tolist()),
    )
