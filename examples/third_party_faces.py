"""A generator that somebody else trained, as a file that `namap fit --generator` takes: a DCGAN of faces, 64 x 64.

The weights are those of the PyPI package gan-face-generate 1.1.1 (MIT, Chien Liu), trained on DigiFace-1M, synthetic
faces whose terms allow research. Its wheel is fetched, never installed; of it the class is imported and the checkpoint
read, as weights only:

    pip download --no-deps gan-face-generate==1.1.1 -d .
    python examples/third_party_faces.py gan_face_generate-1.1.1-py3-none-any.whl faces.pt
    namap check-generator faces.pt
    namap fit --generator faces.pt --data avatars.npz:x_train --outdir runs/avatars2faces
"""

import argparse
import hashlib
import io
import warnings
import zipfile
from pathlib import Path
from zipimport import zipimporter

import torch
from torchvision.io import write_png
from torchvision.utils import make_grid

from namap import load_generator
from namap.generators import sample
from namap.tensors import random_stream, to_uint8

PACKAGE = "gan_face_generate"
SHA256 = "24102f4be41d164e44251168ede0458a45e498a888c81493e2aea48529640569"


def read_generator(wheel: Path) -> torch.nn.Module:
    """The package's own class with the package's own weights; nothing but `models.py` runs."""
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"{wheel}: not the wheel of gan-face-generate 1.1.1; fetch it again")
    models = zipimporter(f"{wheel}/{PACKAGE}").load_module("models")
    with zipfile.ZipFile(wheel) as archive:
        checkpoint = io.BytesIO(archive.read(f"{PACKAGE}/weights.tar"))
    generator = models.Generator(ngpu=1, nc=3, nz=100, ngf=64)
    generator.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["netG_state_dict"])
    return generator.eval()  # its batch statistics are part of it


def save_script(generator: torch.nn.Module, file: Path) -> None:
    """Write FILE, a TorchScript archive: the same bytes wherever it is written, as it names no folders of this one."""
    traced = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript's age
        torch.jit.save(torch.jit.trace(generator, torch.zeros(2, 100, 1, 1)), traced)
    with zipfile.ZipFile(traced) as source, zipfile.ZipFile(file, "w") as kept:
        for name in source.namelist():
            if not name.endswith((".debug_pkl", "/serialization_id")):  # source lines, and a digest of them
                kept.writestr(zipfile.ZipInfo(name), source.read(name))


def main() -> None:
    """Write FILE, and FILE.png: a sheet of samples, made from FILE as namap reads it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    save_script(read_generator(arguments.wheel), arguments.file)
    loaded = load_generator(arguments.file)
    sheet = make_grid(to_uint8(sample(loaded, 64, random_stream(0))), nrow=16, padding=1)
    write_png(sheet, str(arguments.file.with_suffix(".png")))
    print(f"{arguments.file}: codes of {loaded.latent_dim} to {loaded.image_size} x {loaded.image_size} faces")


if __name__ == "__main__":
    main()
