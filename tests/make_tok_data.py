#!/usr/bin/env python3
"""Makes tests/data/tok_*: small tokenizers of every kind that is supported, with what the Hugging Face
library "tokenizers" (pip install tokenizers==0.23.3) does with hard strings, and splits of its expressions;
SentencePiece models and a tekken.json with what sentencepiece==0.2.3 and tiktoken==0.14.0 do.

    python3 tests/make_tok_data.py tests/data [SHARED]    with some of SHARED/real/tok/llama2c-tok512.json
"""
import base64
import io
import json
import os
import struct
import sys
import tempfile

import sentencepiece as spm
import tiktoken
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors,
                        trainers)

TEXT = """The quick brown fox jumps over the lazy dog. She sells sea shells by the sea shore; 12345 shells for
$67.89! Don't we'll they've I'm. Der Fuchs springt \u00fcber den \
Zaun. \u0427\u0442\u043e \u0434\u0435\u043b\u0430\u0442\u044c? def f(x): return x + 1
the the the then there other another brother mother and hand sand land. \
caf\u00e9 na\u00efve r\u00e9sum\u00e9 """ * 4

STRINGS = [
    '', ' ', '  ', '\n', '\r\n', '\t x', 'the', ' the', 'the  other', 'The brother and the mother',
        "don't DON'T we'll",
    "'s 'S '\u017f '\u017ft", '1234567', ' 12 345', '\u0661\u0662', 'caf\u00e9 cafe\u0301',
        'e\u0323\u0301 e\u0301\u0323', '\u1100\u1161\u11a8 \uac01',
    '\u212b \u2126 \ufb01', '\u4e2d\u6587\u5b57', '\U0001f600\u200d\U0001f525', 'a\u00a0b\u3000c', '\u2581',
        'x\u2581\u2581y', '<0x41>', '\u0120the',
    '<|end|>', 'a<|end|>b', ' <|end|> ', '<|end|><|end|>', '<|en', 'x <mask> y', 'x<mask>y', '<tool>  z',
        'foo', 'foobar',
    'a foo b', 'afoo', 'foo.', 'f\u006fo', '  <mask>', '<mask><tool> \n<mask>', 'AbCdEFgh iJKL',
        'x = f(1) + 22;\n\n  y',
    'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 'the' * 40,
    '     x', 'x     ', '\n \n', 'hello\u0000world', 'sea shells sea', '\u0915\u094d\u0937\u093f',
        '\U0001d15e', 'Stra\u00dfe \u01c5 \u1e9b\u0323'
]

O200K = ("[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
         "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*"
         "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")


def trained(tokenizer, vocab, initial=None, special=()):
    trainer = trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=initial or [],
                                  special_tokens=list(special),
                                  show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def with_cases(tokenizer):
    out = json.loads(tokenizer.to_str())
    out['cases'] = []
    for text in STRINGS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        out['cases'].append({'text': text, 'ids': ids, 'ids_with_special': tokenizer.encode(text).ids,
                             'decoded': tokenizer.decode(ids, skip_special_tokens=False)})
    return out


def byte_level():
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.Split(Regex(O200K), 'isolated'),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    trained(t, 330, pre_tokenizers.ByteLevel.alphabet())
    t.add_special_tokens(['<|begin|>', AddedToken('<|end|>', special=True, normalized=False),
                          AddedToken('<mask>', lstrip=True, special=True, normalized=False)])
    t.add_tokens([AddedToken('<tool>', rstrip=True, normalized=False), AddedToken('foo', single_word=True,
                                                                                  normalized=True),
                  AddedToken('cafe\u0301', normalized=True)])
    t.post_processor = processors.TemplateProcessing(single='<|begin|> $A <|end|>',
                                                     special_tokens=[('<|begin|>',
                                                                      t.token_to_id('<|begin|>')),
                                                                     ('<|end|>', t.token_to_id('<|end|>'))])
    return t


def prefixed():
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    t.decoder = decoders.ByteLevel()
    return trained(t, 300, pre_tokenizers.ByteLevel.alphabet())


def sentencepiece():
    t = Tokenizer(models.BPE(unk_token='<unk>', fuse_unk=True, byte_fallback=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme='always')
    special = ['<unk>', '<s>', '</s>'] + ['<0x%02X>' % i for i in range(256)]
    trained(t, 380, special=special)
    out = json.loads(t.to_str())
    out['added_tokens'] = out['added_tokens'][:3]
    t = Tokenizer.from_str(json.dumps(out))
    t.pre_tokenizer = None
    t.normalizer = normalizers.Sequence([normalizers.Prepend('\u2581'), normalizers.Replace(' ', '\u2581')])
    t.decoder = decoders.Sequence([decoders.Replace('\u2581', ' '), decoders.ByteFallback(), decoders.Fuse(),
                                   decoders.Strip(' ', 1, 0)])
    t.add_tokens([AddedToken('<|end|>', normalized=False), AddedToken('x \u2581y', normalized=True)])
    t.post_processor = processors.TemplateProcessing(single='<s> $A', special_tokens=[('<s>', 1)])
    return t


def metaspace():
    t = Tokenizer(models.BPE(unk_token='<unk>', fuse_unk=True))
    t.normalizer = normalizers.Strip()
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme='first')
    t.decoder = decoders.Metaspace(prepend_scheme='first')
    return trained(t, 160, special=['<unk>', '<mask>', '<|end|>'])


def unfused():
    t = Tokenizer(models.BPE(unk_token='<unk>'))
    t.normalizer = normalizers.Replace('the', 'a')
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation('merged_with_previous'),
                                               pre_tokenizers.Split('s', 'merged_with_next'),
                                               pre_tokenizers.Digits(individual_digits=False)])
    t.decoder = decoders.Fuse()
    return trained(t, 140, special=['<unk>'])


def words():
    t = Tokenizer(models.WordPiece(unk_token='[UNK]', max_input_chars_per_word=50))
    t.normalizer = normalizers.BertNormalizer()
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
    t.train_from_iterator([TEXT], trainers.WordPieceTrainer(vocab_size=150, show_progress=False,
                                                            special_tokens=special))
    t.add_tokens([AddedToken('foo', single_word=True, normalized=True)])
    t.post_processor = processors.BertProcessing(('[SEP]', 3), ('[CLS]', 2))
    return t


def charsmap(pairs):
    """SentencePiece's form: bytes of a double array, the array, texts that end with 0. Every node gets a block of
    256 units of its own."""
    texts, tree = b'', {}
    for source, target in pairs:
        node = tree
        for c in source.encode():
            node = node.setdefault(c, {})
        node[0] = len(texts)
        texts += target.encode() + b'\0'
    units, nodes = [0] * 256, [(0, tree)]
    for at, node in nodes:
        block = len(units)
        units += [0] * 256
        units[at] |= (at ^ block) << 10 | (0x100 if 0 in node else 0)
        for c, child in node.items():
            if c == 0:
                units[block] = 1 << 31 | child
            else:
                units[block ^ c] = c
                nodes.append((block ^ c, child))
    array = struct.pack('<%dI' % len(units), *units)
    return struct.pack('<I', len(array)) + array + texts


RULES = [('\ufb01', 'fi'), ('\u212b', '\u00c5'), ('\u3000', ' '), ('\t', ' '), ('\n', ' '), ('\r', ' '),
         ('\u00a0', ' '), ('e\u0301', '\u00e9'), ('D', 'd'), ('\u0301', ''), ('\u1100\u1161', '\uac00'),
         ('M', 'mmm'), ('\U0001f525', 'fire')]


def unigram():
    t = Tokenizer(models.Unigram())
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme='always')
    t.train_from_iterator([TEXT], trainers.UnigramTrainer(vocab_size=120, show_progress=False, unk_token='<unk>',
                                                          special_tokens=['<pad>', '<unk>', '</s>']))
    t.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap(RULES)),
                                         normalizers.Replace(Regex(' {2,}'), '\u2581')])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    t.decoder = decoders.Metaspace()
    t.add_tokens([AddedToken('<mask>', lstrip=True, normalized=True), AddedToken('foo', normalized=True)])
    t.post_processor = processors.TemplateProcessing(single='$A </s>', special_tokens=[('</s>', 2)])
    return t


def forms():
    t = Tokenizer(models.BPE(unk_token='<unk>'))
    t.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(),
                                         normalizers.NFKC(), normalizers.Replace(Regex('[0-9]+'), '0')])
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.decoder = decoders.Fuse()
    return trained(t, 140, special=['<unk>'])


def sentencepiece_model(where, name, **options):
    """A .model, and its ids and texts."""
    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as tmp:
        rules = os.path.join(tmp, 'rules.tsv')
        with open(rules, 'w', encoding='utf-8') as f:
            for source, target in RULES:
                f.write(' '.join('%x' % ord(c) for c in source) + '\t' +
                        ' '.join('%x' % ord(c) for c in target) + '\n')
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXT.split('\n')), model_writer=model, normalization_rule_tsv=rules,
            user_defined_symbols=['<tool>', 'foo'], num_threads=1, minloglevel=2, **options)
    with open(os.path.join(where, name + '.model'), 'wb') as f:
        f.write(model.getvalue())
    s = spm.SentencePieceProcessor(model_proto=model.getvalue())
    cases = [{'text': t, 'ids': s.encode(t), 'decoded': s.decode(s.encode(t))} for t in STRINGS if '\0' not in t]
    write(os.path.join(where, name + '_cases.json'), {'cases': cases})


def tekken(where):
    ranks = {bytes([i]): i for i in range(256)}
    words = 'th he the t in er an s sh ll ea \u00e9'.split(' ') + [' b', 'oo', '\u4e2d', 'the ', ' t', ' th']
    for word in words:
        ranks.setdefault(word.encode(), len(ranks))
    out = {'config': {'pattern': O200K, 'num_vocab_tokens': len(ranks), 'default_vocab_size': len(ranks) + 20,
                      'default_num_special_tokens': 20, 'version': 'v3'},
           'vocab': [{'rank': r, 'token_bytes': base64.b64encode(b).decode(), 'token_str': None}
                     for b, r in ranks.items()]}
    t = tiktoken.Encoding('small', pat_str=O200K, mergeable_ranks=ranks, special_tokens={})
    out['cases'] = [{'text': x, 'ids': [i + 20 for i in t.encode(x, disallowed_special=())]} for x in STRINGS]
    write(os.path.join(where, 'tok_tekken.json'), out)


PATTERNS = [
    "\\p{N}{1,3}", "\\p{N}{2}", "\\p{N}{2,}", "\\d+?", "a+?b", "(?:ab)+", "(?:ab|c)*d", "x??y",
        "[a-c&&[^b]]+", "[^a-y[0-3]]+",
    "(?i:the|SK)", "\\s+(?!\\S)|\\s+", "\\w+(?=[.!])", "\\bthe\\b", "\\Bhe", "(?>a+)b", "a*+b", "a?+a",
        "[\\x{4e00}-\\x{9fff}]+",
    "[\\p{Lu}\\p{Lt}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*", "\\P{L}+", "\\p{^N}+", "[^\\s\\p{L}\\p{N}]+",
        " ?[^(\\s|.,!?\u2026\u3002)]+",
    "^.", ".$", "\\A.", ".\\z", "\\S+$", "(a|ab)(c|bcd)(d*)", "(?:a|b)*?c", "(?=the)th|e", "[\\]\\-a]+",
        "[-a]+", "[]a]+",
    "\\h+", "\\H+", "\\p{P}+|\\p{S}+", "\\p{Sc}|\\p{Sm}", "[\\S\\n]+", "[^\\S\\r\\n]+",
        "\\p{N}{1,3}(?=(?:\\p{N}{3})*\\b)", "a{0,2}b",
    "(?:[sS]he|he) ?",
        "'(?:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}"
    "| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+",
    O200K
]
PATTERN_TEXTS = [
    "The quick brown fox, the LAZY dog; she said: \u00abhe's 1234567 tall\u00bb!\n\nthe end.",
        "aaab aab ab b abababcd abcd abbcbd xy xxy y",
    "caf\u00e9 \u0130stanbul \u01c5 \u00df \u017fK\u212a sk SK",
        "\u4e2d\u6587abc\u65e5\u672c\u8a9e \u0661\u0662\u0663 \u00bd\u2163", "  \t \r\n  x \n",
            "$5 + 3\u20ac = \u221e \U0001f600 -a]]-",
    "1 12 123 1234 12345 123456 1234567 x12345", "deadBEEF 0x1F g", ""
]
BEHAVIOURS = ['removed', 'isolated', 'merged_with_previous', 'merged_with_next', 'contiguous']


def regex_cases():
    out = []
    for i, pattern in enumerate(PATTERNS):
        for k, text in enumerate(PATTERN_TEXTS):
            behaviour = BEHAVIOURS[1] if k % 2 else BEHAVIOURS[(i + k // 2) % 5]
            invert = (i + k) % 7 == 0
            split = pre_tokenizers.Split(Regex(pattern), behaviour, invert)
            # the library skips pieces without characters
            out.append([pattern, behaviour, invert, text, [p for p, _ in split.pre_tokenize_str(text)]])
    return out


def write(path, value):
    with open(path, 'w', encoding='ascii', newline='\n') as f:
        json.dump(value, f, separators=(',', ':'))
        f.write('\n')


def main():
    where = sys.argv[1]
    for name, make in [('bytes', byte_level), ('prefix', prefixed), ('spm', sentencepiece), ('meta',
                                                                                             metaspace),
                       ('split', unfused), ('word', words), ('unigram', unigram), ('forms', forms)]:
        write(os.path.join(where, 'tok_%s.json' % name), with_cases(make()))
    sentencepiece_model(where, 'tok_piece_bpe', model_type='bpe', vocab_size=340, byte_fallback=True,
                        remove_extra_whitespaces=False)
    sentencepiece_model(where, 'tok_piece_unigram', model_type='unigram', vocab_size=88)
    tekken(where)
    write(os.path.join(where, 'tok_regex.json'), regex_cases())
    if len(sys.argv) > 2:
        with open(os.path.join(sys.argv[2], 'real/tok/llama2c-tok512.json'), encoding='utf-8') as f:
            cases = [{'text': c['text'], 'ids': c['ids']} for c in json.load(f)['cases']
                     if len(c['text']) < 60 and '<s>' not in c['text'] and '</s>' not in c['text']]
        write(os.path.join(where, 'tok512_cases.json'), {'cases': cases[::4]})


if __name__ == '__main__':
    main()
