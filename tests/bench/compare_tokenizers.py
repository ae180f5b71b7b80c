#!/usr/bin/env python3
"""Speed and ids of the tokenizers side by side with the Hugging Face tokenizers package, one thread each.

    pip install tokenizers numpy
    sh tests/fetch_tokenizers.sh DIR
    python3 tests/bench/compare_tokenizers.py DIR TEXT... [--only NAME]

TEXT: UTF-8 files; their texts, one after the other, are cut or repeated to 1 MB. Prints for each tokenizer in
DIR MB/s of both, the ratio, and whether the ids are the same. Those that are no tokenizer.json have no partner.
"""
import os
import subprocess
import sys
import tempfile
import time

os.environ['TOKENIZERS_PARALLELISM'] = 'false'
os.environ['RAYON_NUM_THREADS'] = '1'
import numpy as np
from tokenizers import Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
FILES = ('tokenizer.json', 'tokenizer.model', 'tekken.json', 'model.gguf', 'rwkv_vocab_v20230424.txt')
SIZE = 1 << 20


def read_text(paths):
    text = ''.join(open(p, encoding='utf-8').read() for p in paths)
    data = text.encode()
    data = (data * (SIZE // len(data) + 1))[:SIZE]
    return data.decode('utf-8', 'ignore')


def ours(program, path, text_path, ids_path):
    out = subprocess.run([program, path, text_path, ids_path], capture_output=True, text=True)
    if out.returncode:
        return None, out.stderr.strip()
    size, _, seconds = out.stdout.split('\n')[1].split()
    return int(size) / float(seconds) / 1e6, np.fromfile(ids_path, np.int32)


def theirs(path, text):
    t = Tokenizer.from_file(path)
    t.no_truncation()
    t.no_padding()
    best, ids = 1e9, None
    for _ in range(3):
        start = time.process_time()
        ids = t.encode(text, add_special_tokens=False).ids
        best = min(best, time.process_time() - start)
    return len(text.encode()) / best / 1e6, np.array(ids, np.int32)


def main():
    args = sys.argv[1:]
    only = None
    if '--only' in args:
        at = args.index('--only')
        only = args[at + 1]
        del args[at:at + 2]
    text = read_text(args[1:])
    with tempfile.TemporaryDirectory() as tmp:
        program, text_path, ids_path = (os.path.join(tmp, n) for n in ('bench_tok', 'text', 'ids'))
        subprocess.run([os.environ.get('CC', 'cc'), '-O2', os.path.join(HERE, 'bench_tok.c'), '-o', program,
                        '-lm'], check=True)
        with open(text_path, 'w', encoding='utf-8', newline='') as f:
            f.write(text)
        print('%-22s %10s %10s %7s  ids' % ('tokenizer', 'MB/s', 'package', 'ratio'))
        for name in sorted(os.listdir(args[0])):
            paths = [os.path.join(args[0], name, f) for f in FILES]
            path = next((p for p in paths if os.path.exists(p)), None)
            if not path or (only and only != name):
                continue
            speed, ids = ours(program, path, text_path, ids_path)
            if speed is None:
                print('%-22s %s' % (name, ids))
            elif path.endswith('tokenizer.json'):
                other, expected = theirs(path, text)
                same = 'same' if np.array_equal(ids, expected) else 'DIFFER'
                print('%-22s %10.1f %10.2f %6.1fx  %s' % (name, speed, other, speed / other, same))
            else:
                print('%-22s %10.1f' % (name, speed))
            sys.stdout.flush()


if __name__ == '__main__':
    main()
