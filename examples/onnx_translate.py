"""What `namap translate` does, from one ONNX file and without torch or namap: a folder of images in, a folder out.

    namap export runs/map --format onnx -o map.onnx
    python examples/onnx_translate.py map.onnx sketches/ analogies/

Needs numpy, pillow and onnxruntime. Its PNGs are those of `namap translate --precision fp32`, up to rounding.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model, source, target = sys.argv[1:4]
session = onnxruntime.InferenceSession(model)
about = session.get_modelmeta().custom_metadata_map
size, mode = int(about["namap.size"]), "L" if about["namap.channels"] == "1" else "RGB"
Path(target).mkdir(parents=True, exist_ok=True)
for path in sorted(p for p in Path(source).iterdir() if p.suffix.lower() in Image.registered_extensions()):
    picture = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")  # upright, on white, its middle square
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert(mode)
    pixels = np.atleast_3d(ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS))
    y = pixels.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1
    x = session.run(None, {"images": y})[0][0].transpose(1, 2, 0)
    Image.fromarray(((x + 1) * 127.5).round().clip(0, 255).astype(np.uint8).squeeze()).save(f"{target}/{path.stem}.png")
