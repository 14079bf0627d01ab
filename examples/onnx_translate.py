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


def read(path: Path, size: int, channels: int, scale: float) -> np.ndarray:
    """An image as `[c h w]` in [-1, 1]: upright, on white, its middle square, shrunk as the queries of the fit were."""
    picture = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    picture = Image.alpha_composite(white, picture).convert("L" if channels == 1 else "RGB")
    pixels = np.atleast_3d(np.asarray(ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)))
    inner = size if scale == 1 else max(4, round(size * scale))
    planes = [Image.fromarray(plane.astype(np.float32)) for plane in pixels.transpose(2, 0, 1)]
    small = [np.asarray(p.resize((inner, inner), Image.Resampling.BILINEAR)).round().clip(0, 255) for p in planes]
    margin = ((size - inner) // 2, size - inner - (size - inner) // 2)
    return np.pad(np.stack(small), ((0, 0), margin, margin), mode="edge") / 127.5 - 1


def main(model: str, source: str, target: str) -> None:
    """Translate every image of a folder."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    size, channels, scale = (float(about[f"namap.{key}"]) for key in ("size", "channels", "query_scale"))
    Path(target).mkdir(parents=True, exist_ok=True)
    for path in sorted(p for p in Path(source).iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")):
        images = read(path, int(size), int(channels), scale)[None].astype(np.float32)
        found = session.run(None, {"images": images})[0][0].transpose(1, 2, 0)
        grey = ((found + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
        Image.fromarray(grey[..., 0] if grey.shape[2] == 1 else grey).save(Path(target) / f"{path.stem}.png")


if __name__ == "__main__":
    main(*sys.argv[1:4])
