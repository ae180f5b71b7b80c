#!/usr/bin/env python3
"""Writes the Unicode tables of tools/tok_unicode.h between its BEGIN GENERATED / END GENERATED marks.

    python3 tools/gen_unicode.py tools/tok_unicode.h

Uses the module unicodedata2 when it is there (pip install unicodedata2==16.0.0), else Python's own unicodedata;
the version is written beside the tables. The committed tables are those of Unicode 16.0, the version of the
regular expression library that the reference tokenizers use. Their other parts are of other versions of Unicode:
what is a mark, punctuation or a control, what has a lower case or a compatibility form is asked of the library
itself (pip install tokenizers==0.23.3); grapheme clusters are those of the module regex (pip install regex).
"""
import sys

import regex
from tokenizers import normalizers, pre_tokenizers

try:
    import unicodedata2 as unicode
except ImportError:
    import unicodedata as unicode

NAMES = 'Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co Cn'.split()
EVEN_UPPER, ODD_UPPER = 30, 31          # runs in which Lu and Ll alternate: which code points are Lu
LAST = 0x110000


def category_runs():
    """[(first code point, category)], alternating cases as one run; the last run reaches to the end."""
    cats = [NAMES.index(unicode.category(chr(c))) for c in range(LAST)]
    runs, c = [], 0
    while c < LAST:
        end = c + 1
        while end < LAST and cats[end] == cats[c]:
            end += 1
        swap = c
        while swap + 1 < LAST and {cats[swap], cats[swap + 1]} == {0, 1}:
            swap += 1
        if swap - c >= 3 and end == c + 1:
            upper = c if cats[c] == 0 else c + 1
            runs.append((c, ODD_UPPER if upper % 2 else EVEN_UPPER))
            # the last one may begin a longer run of its own
            c = swap + 1 if swap + 1 >= LAST or cats[swap + 1] != cats[swap] else swap
            continue
        runs.append((c, cats[c]))
        c = end
    check = []
    for (first, cat), (after, _) in zip(runs, runs[1:] + [(LAST, 0)]):
        for i in range(first, after):
            check.append(cat if cat < 30 else (i % 2) ^ (1 if cat == ODD_UPPER else 0))
    assert check == cats
    return runs


def decompositions():
    out = []
    for c in range(LAST):
        text = unicode.decomposition(chr(c))
        if text and not text.startswith('<'):
            parts = [int(p, 16) for p in text.split()]
            assert len(parts) in (1, 2)
            if normalizers.NFD().normalize_str(chr(c)) == chr(c):
                continue                # newer than the library's tables
            out.append((c, parts[0], parts[1] if len(parts) == 2 else 0))
    return out


def combining_runs():
    runs, last = [], 0
    for c in range(LAST):
        k = unicode.combining(chr(c))
        if k != last:
            runs.append((c, k))
            last = k
    return runs


def unstable_ranges(decomp, pairs):
    """Code points that NFC may change or join to what is before them: everything else can be copied."""
    second = {b for _, b in pairs} | set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))
    bad = sorted({c for c, _, _ in decomp if unicode.normalize('NFC', chr(c)) != chr(c)} | second |
                 {c for c in range(LAST) if unicode.combining(chr(c))})
    ranges = []
    for c in bad:
        if ranges and ranges[-1][1] == c:
            ranges[-1][1] = c + 1
        else:
            ranges.append([c, c + 1])
    return ranges


def ranges_of(codes):
    """[from, end) pairs."""
    ranges = []
    for c in sorted(codes):
        if ranges and ranges[-1][1] == c:
            ranges[-1][1] = c + 1
        else:
            ranges.append([c, c + 1])
    return ranges


CHARS = [chr(c) for c in range(LAST) if not 0xD800 <= c < 0xE000]


def bert(**on):
    flags = dict(clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False)
    flags.update(on)
    return normalizers.BertNormalizer(**flags).normalize_str


def library_sets():
    """{name: code points} of the classes that normalizers and pre-tokenizers of the library are made of."""
    clean, bare = bert(clean_text=True), bert(strip_accents=True)
    cjk, accents = bert(handle_chinese_chars=True), normalizers.StripAccents().normalize_str
    cut = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    return {
        'controls': [ord(c) for c in CHARS if clean(c) == ''],
        'blanks': [ord(c) for c in CHARS if clean(c) == ' '],
        'ideographs': [ord(c) for c in CHARS if cjk(c) != c],
        'plain_marks': [ord(c) for c in CHARS if bare(c) == ''],
        'all_marks': [ord(c) for c in CHARS if accents(c) == ''],
        'punctuation': [ord(c) for c in CHARS if len(cut('a' + c + 'a')) == 3],
    }


def mapping(f):
    """(runs, rest) of {c: f(c)}: runs are (first, last, step, target), single characters at one distance; rest
    is code point, how many, code points."""
    runs, rest = [], []
    for c in CHARS:
        to = f(c)
        if to == c:
            continue
        code = ord(c)
        if len(to) != 1:
            rest += [code, len(to)] + [ord(x) for x in to]
            continue
        last = runs[-1] if runs else None
        if last and code - last[1] in (1, 2) and ord(to) - code == last[3] - last[0] and \
                (last[0] == last[1] or code - last[1] == last[2]):
            last[2] = code - last[1]
            last[1] = code
        else:
            runs.append([code, code, 1, ord(to)])
    return [x for r in runs for x in r], rest


def break_runs():
    """[(first code point, SQM__BREAK_*)], Hangul syllables aside."""
    names = 'CR LF Control Extend ZWJ Regional_Indicator Prepend SpacingMark L V T'.split()
    tests = [regex.compile(r'\p{Grapheme_Cluster_Break=%s}' % n) for n in names]
    picture = regex.compile(r'\p{Extended_Pictographic}')
    runs, last = [], 0
    for c in range(LAST):
        if 0xAC00 <= c < 0xAC00 + 11172:
            continue
        text = chr(c)
        k = next((i + 1 for i, t in enumerate(tests) if t.match(text)), 14 if picture.match(text) else 0)
        if 0xD800 <= c < 0xE000:
            k = 3
        if k != last:
            runs.append((c, k))
            last = k
    return runs


def table(name, kind, values, comment):
    lines, line = [], '   '
    for v in values:
        item = ' %d,' % v if not line.strip() else '%d,' % v
        if len(line) + len(item) > 108:
            lines.append(line)
            line = '    %d,' % v
        else:
            line += item
    lines.append(line.rstrip(','))
    return ['/* %s */' % comment, 'static const %s %s[%d] = {' % (kind, name, len(values))] + lines + ['};']


def generate():
    runs = category_runs()
    decomp = decompositions()
    excluded = {c for c, a, b in decomp if b and unicode.normalize('NFC', chr(a) + chr(b)) != chr(c)}
    order = [i for i, (c, a, b) in enumerate(decomp) if b and c not in excluded]
    order.sort(key=lambda i: decomp[i][1:])
    unstable = unstable_ranges(decomp, [decomp[i][1:] for i in order])
    blocks = [max(i for i, (c, _) in enumerate(runs) if c <= block << 8) for block in range(0x201)]
    out = ['/* Unicode %s, by tools/gen_unicode.py. */' % unicode.unidata_version]
    out += table('tok_category_runs', 'uint32_t', [c << 5 | k for c, k in runs],
                 'first code point << 5 | category; 30: Lu where even, else Ll; 31: Lu where odd')
    out += table('tok_category_blocks', 'uint16_t', blocks, 'run that holds code point 256 * i')
    out += table('tok_decomposed', 'uint32_t', [x for d in decomp for x in d],
                 'code point, first, second (0: none) of canonical decompositions')
    out += table('tok_compositions', 'uint16_t', order,
                 'decompositions that NFC composes again, by (first, second)')
    out += table('tok_combining_runs', 'uint32_t', [c << 8 | k for c, k in combining_runs()],
                 'first code point << 8 | combining class')
    out += table('tok_unstable', 'uint32_t', [x for r in unstable for x in r],
                 '[from, end) pairs: NFC changes these, or joins them to what is before')
    both = [c for a, b in unstable for c in range(a, b)]
    both += [c for c, _, _ in decomp] + list(range(0xAC00, 0xAC00 + 11172))
    out += table('tok_unstable_both', 'uint32_t', [x for r in ranges_of(set(both)) for x in r],
                 'the same for NFC and NFD')
    for name, codes in library_sets().items():
        out += table('tok_' + name, 'uint32_t', [x for r in ranges_of(codes) for x in r], '[from, end) pairs')
    nfd, nfkd = normalizers.NFD().normalize_str, normalizers.NFKD().normalize_str
    for name, f in (('lower', normalizers.Lowercase().normalize_str),
                    ('compatible', lambda c: nfkd(c) if nfkd(c) != nfd(c) else c)):
        runs, rest = mapping(f)
        out += table('tok_%s_runs' % name, 'uint32_t', runs, 'first, last, step, what the first becomes')
        out += table('tok_%s_rest' % name, 'uint32_t', rest, 'code point, how many, code points')
    out += table('tok_break_runs', 'uint32_t', [c << 4 | k for c, k in break_runs()],
                 'first code point << 4 | SQM__BREAK_*; Hangul syllables are left out')
    return out


def main():
    path = sys.argv[1]
    with open(path, encoding='ascii') as f:
        lines = f.read().split('\n')
    begin = lines.index('/* BEGIN GENERATED */')
    end = lines.index('/* END GENERATED */')
    lines[begin + 1:end] = generate()
    with open(path, 'w', encoding='ascii') as f:
        f.write('\n'.join(lines))


if __name__ == '__main__':
    main()
