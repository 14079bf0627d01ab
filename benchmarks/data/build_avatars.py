"""avatars.npz: cartoon avatars with their attributes, head and shoulders on white.

    pip install 'namap[bench-data]' && python -m benchmarks.data.build_avatars --output DATA

Source: PyPI python-avatars (MIT; Avataaars design by Pablo Stanley), whose SVG PyPI resvg-py draws. Attributes are
drawn independently and uniformly, but half of the avatars have no glasses and, independently, half no facial hair. No
two avatars have the same attributes. 255: not visible (hair colour of a bald avatar without beard, clothes under a
blazer).
"""

import argparse
import io
from typing import Any

import numpy as np
from PIL import Image

from namap.errors import DataError

from .packages import main, picture

SIDE, UNSEEN = 64, 255
CROP = (32, 20, 232, 220)  # of the 264x280 drawing
BLAZERS = ("BLAZER_SHIRT", "BLAZER_SWEATER")
KINDS = {  # label: enumeration of python_avatars, keyword of its Avatar, values
    "skin": ("SkinColor", "skin_color", "PALE LIGHT TANNED YELLOW BROWN DARK_BROWN BLACK"),
    "hair_color": (
        "HairColor",
        "hair_color",
        "AUBURN BLACK BLONDE BLONDE_GOLDEN BROWN BROWN_DARK PASTEL_PINK PLATINUM RED SILVER_GRAY",
    ),
    "hair_style": (
        "HairType",
        "top",
        "NONE BIG_HAIR BOB BUN CAESAR_SIDE_PART CURLY DREADS FRO LONG_NOT_TOO_LONG SHAGGY_MULLET SHORT_CURLY "
        "SHORT_FLAT SHORT_ROUND SHORT_WAVED SIDES STRAIGHT_1 MOHAWK PIXIE QUIFF BRAIDS POMPADOUR MIA_WALLACE "
        "STRAIGHT_STRAND FRIZZLE",
    ),
    "glasses": ("AccessoryType", "accessory", "NONE PRESCRIPTION_1 PRESCRIPTION_2 ROUND SUNGLASSES WAYFARERS"),
    "facial_hair": (
        "FacialHairType",
        "facial_hair",
        "NONE BEARD_LIGHT BEARD_MAGESTIC BEARD_MEDIUM MOUSTACHE_FANCY MOUSTACHE_MAGNUM",
    ),
    "eyes": ("EyeType", "eyes", "DEFAULT HAPPY SIDE SQUINT SURPRISED WINK CLOSED EYE_ROLL"),
    "mouth": ("MouthType", "mouth", "DEFAULT SMILE TWINKLE SERIOUS SAD CONCERNED DISBELIEF TONGUE"),
    "clothing": (
        "ClothingType",
        "clothing",
        "BLAZER_SHIRT BLAZER_SWEATER COLLAR_SWEATER HOODIE OVERALL SHIRT_CREW_NECK SHIRT_SCOOP_NECK SHIRT_V_NECK",
    ),
    "clothing_color": (
        "ClothingColor",
        "clothing_color",
        "BLACK BLUE_01 BLUE_02 BLUE_03 GRAY_01 GRAY_02 HEATHER PASTEL_BLUE PASTEL_GREEN PASTEL_ORANGE PASTEL_YELLOW "
        "PINK RED WHITE",
    ),
}
NAMES = {label: values.split() for label, (_, _, values) in KINDS.items()}


def attributes(rng: np.random.Generator) -> dict[str, int]:
    """Indices into NAMES."""
    drawn = {label: int(rng.integers(len(names))) for label, names in NAMES.items()}
    for label in ("glasses", "facial_hair"):
        if rng.random() < 0.5:
            drawn[label] = 0
    return drawn


def draw(drawn: dict[str, int]) -> np.ndarray:
    """The avatar with these attributes, uint8 `[3 64 64]`; facial hair has the colour of the hair."""
    import python_avatars
    import resvg_py

    values: dict[str, Any] = {
        keyword: getattr(python_avatars, kind)[NAMES[label][drawn[label]]]
        for label, (kind, keyword, _) in KINDS.items()
    }
    svg = python_avatars.Avatar(**values, facial_hair_color=values["hair_color"]).render()
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=2, skip_system_fonts=True))
    image = Image.open(io.BytesIO(png))
    scale = image.width / 264
    return picture(image.crop(tuple(round(scale * edge) for edge in CROP)), SIDE)


def visible(drawn: dict[str, int]) -> dict[str, int]:
    """The labels: what cannot be seen has none."""
    labels = dict(drawn)
    if not (drawn["hair_style"] or drawn["facial_hair"]):
        labels["hair_color"] = UNSEEN
    if NAMES["clothing"][drawn["clothing"]] in BLAZERS:
        labels["clothing_color"] = UNSEEN
    return labels


def build(arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """Avatars, none twice."""
    try:
        import python_avatars  # noqa: F401  # pyright: ignore[reportMissingImports]
        import resvg_py  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise DataError(f"{error.name} is not installed; pip install 'namap[bench-data]'") from None
    rng = np.random.default_rng(arguments.seed)
    seen: dict[tuple[int, ...], dict[str, int]] = {}
    while len(seen) < arguments.count + arguments.test_count:
        drawn = attributes(rng)
        seen.setdefault(tuple(visible(drawn).values()), drawn)
    everyone = list(seen.items())
    arrays: dict[str, np.ndarray] = {f"{label}_names": np.array(names) for label, names in NAMES.items()}
    for split, part in (("train", everyone[: arguments.count]), ("test", everyone[arguments.count :])):
        arrays[f"x_{split}"] = np.stack([draw(drawn) for _, drawn in part])
        labels = np.array([values for values, _ in part], np.uint8)
        arrays |= {f"{label}_{split}": labels[:, i] for i, label in enumerate(NAMES)}
    return arrays


if __name__ == "__main__":
    main(__doc__ or "", "avatars.npz", (5000, 500), build)
