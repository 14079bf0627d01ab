"""One file per kind of experiment; `EXPERIMENTS` is what `namap bench NAME` knows."""

from ..scene import Experiment
from .avatars import AVATAR2FACE
from .cars import CAR2CAR, CAR2CAR_BACK
from .digits import DIGITS2STREET, HANDWRITING2PRINT, STREET2DIGITS
from .emoji import EMOJI
from .generators import GENERATORS
from .pairs import EDGES2BAGS, EDGES2SHOES
from .runtime import RUNTIME
from .styles import BAGS2SHOES

ALL = (
    STREET2DIGITS,
    DIGITS2STREET,
    CAR2CAR,
    CAR2CAR_BACK,
    EDGES2SHOES,
    EDGES2BAGS,
    BAGS2SHOES,
    AVATAR2FACE,
    HANDWRITING2PRINT,
    EMOJI,
    GENERATORS,
    RUNTIME,
)
EXPERIMENTS: dict[str, Experiment] = {e.name: e for e in ALL}
