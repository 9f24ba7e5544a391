"""Tiny tokenizers of every kind that causal models come with, trained on the spot, and a model that memorises texts.

Nothing here uses rayul: the tests compare with what `tokenizer(text)` and the model's logits say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizer, PreTrainedTokenizerFast

PEOPLE = ("Ada Korb", "Bela Quint", "Cai Rowe")
TOWNS = ("Lorn", "Vesk", "Tarn")
CORPUS = [
    f"Question: Where was {person} born?\nAnswer: {person} was born in {town}, in 19{i}7.\n[INST] ### Response: [/INST]"
    for i, (person, town) in enumerate(zip(PEOPLE, TOWNS, strict=True))
]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _wrapped(raw: Tokenizer, **special: str) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=raw, **special)


def _adds(raw: Tokenizer, single: str) -> None:
    names = [part for part in single.split() if part != "$A"]
    raw.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(name, raw.token_to_id(name)) for name in names]
    )


def byte_level() -> Any:
    """Without special tokens around a text, as Qwen's."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=330, special_tokens=["<pad>", "<eos>"], initial_alphabet=alphabet)
    )
    return _wrapped(raw, pad_token="<pad>", eos_token="<eos>")


def byte_level_with_a_name_for_bos() -> Any:
    """As GPT-2's: it has a BOS, and its post-processor, which trims blanks from offsets, does not add it."""
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.bos_token = "<eos>"
    return tokenizer


def byte_level_that_adds_bos() -> Any:
    """As Llama 3's."""
    tokenizer = byte_level()
    tokenizer.bos_token = "<eos>"
    _adds(tokenizer.backend_tokenizer, "<eos> $A")
    return tokenizer


def unigram() -> Any:
    """As T5's: an end token after every text."""
    raw = Tokenizer(models.Unigram())
    raw.normalizer = normalizers.NFKC()
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    raw.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=90, special_tokens=special, unk_token="<unk>"))
    _adds(raw, "$A </s>")
    return _wrapped(raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def word_piece() -> Any:
    """As BERT's: lower case, words in pieces, [CLS] and [SEP] around every text."""
    raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    raw.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=100, special_tokens=special))
    _adds(raw, "[CLS] $A [SEP]")
    return _wrapped(raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def _merges(special: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a BPE over words with a ▁ before them."""
    import json

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=110 + len(special), special_tokens=[*special]))
    learned = json.loads(raw.to_str())["model"]
    return learned["vocab"], [tuple(merge) for merge in learned["merges"]]


def byte_fallback() -> Any:
    """As Llama 2's: a normaliser puts a ▁ before the text, unknown letters become bytes, BOS by the post-processor."""
    vocab, merges = _merges(["<unk>", "<s>", "</s>", *BYTES])
    raw = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    _adds(raw, "<s> $A")
    return _wrapped(raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def prepend_normaliser() -> Any:
    """A generic tokenizer whose normaliser puts a ▁ before the text; no byte fallback, no special tokens added."""
    vocab, merges = _merges(["<unk>", "<eos>"])
    raw = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>"))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    return _wrapped(raw, eos_token="<eos>", unk_token="<unk>")


def metaspace(scheme: str) -> Any:
    vocab, merges = _merges(["<unk>", "<s>", "</s>", *BYTES])
    raw = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    _adds(raw, "<s> $A")
    return _wrapped(raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


class Longest(PreTrainedTokenizer):
    """In Python alone, so without offsets: from left to right the longest piece that is known, blanks included."""

    def __init__(self, **special: Any) -> None:
        letters = sorted({letter for text in CORPUS for letter in text} | set(map(chr, range(32, 127))) | {"\n"})
        pieces = ["<s>", "</s>", *letters, *(f" {word}" for text in CORPUS for word in text.split()), ": ", "\n["]
        self.pieces = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
        super().__init__(bos_token="<s>", eos_token="</s>", **special)

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    def get_vocab(self) -> dict[str, int]:
        return dict(self.pieces)

    def _tokenize(self, text: str, **options: Any) -> list[str]:
        found = []
        while text:
            length = next(n for n in range(min(16, len(text)), 0, -1) if text[:n] in self.pieces)
            found.append(text[:length])
            text = text[length:]
        return found

    def _convert_token_to_id(self, token: str) -> int:
        return self.pieces[token]

    def _convert_id_to_token(self, index: int) -> str:
        return list(self.pieces)[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)

    def build_inputs_with_special_tokens(self, ids: list[int], more: list[int] | None = None) -> list[int]:
        return [self.pieces["<s>"], *ids, self.pieces["</s>"]]


KINDS: dict[str, Callable[[], Any]] = {
    "byte-level": byte_level,
    "byte-level, BOS not added": byte_level_with_a_name_for_bos,
    "byte-level, BOS added": byte_level_that_adds_bos,
    "Unigram": unigram,
    "WordPiece": word_piece,
    "byte fallback": byte_fallback,
    "Prepend normaliser": prepend_normaliser,
    "Metaspace always": lambda: metaspace("always"),
    "Metaspace first": lambda: metaspace("first"),
    "Metaspace never": lambda: metaspace("never"),
    "no fast tokenizer": Longest,
}


def ids_of(tokenizer: Any, text: str, **options: Any) -> list[int]:
    return list(tokenizer(text, **options)["input_ids"])


def llama(tokenizer: Any) -> Any:
    """Two layers with random weights."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=256,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=None,
        )
    )


def memorised(tokenizer: Any, texts: Sequence[str], steps: int, model: Any = None, **options: Any) -> Any:
    """A model (default: `llama`) trained by transformers' own loss on whole texts and an end token."""
    model = llama(tokenizer) if model is None else model
    end = tokenizer.eos_token_id
    rows = [ids_of(tokenizer, text, **options) for text in texts]
    rows = [ids if end is None or ids[-1] == end else [*ids, end] for ids in rows]
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    labels = ids.masked_fill(mask == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * min(1.0, (step + 1) / 20, 2 * (1 - step / steps))
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def truth(model: Any, ids: Sequence[int], start: int, stop: int) -> tuple[float, float]:
    """(extraction strength, probability) of the tokens ids[start:stop], from plain logits.

    Extraction strength by its definition: 1 - k/L for the shortest prefix of k of the L tokens from which greedy
    decoding, token by token, gives the rest; the empty rest does not count.
    """
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([list(ids)])).logits[0].double()
    logp = logits.log_softmax(-1)[torch.arange(start - 1, stop - 1), torch.tensor(ids[start:stop])]
    right = (logits[start - 1 : stop - 1].argmax(-1) == torch.tensor(ids[start:stop])).tolist()
    length = stop - start
    strength = next((1 - k / length for k in range(length) if all(right[k:])), 0.0)
    return strength, float(logp.mean().exp())
