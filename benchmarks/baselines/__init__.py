"""The rivals: adversarial unpaired translation, with their own losses and published settings.

What differs from a publication says its module.
"""

from .adversarial import Rival, train_rival
from .cyclegan import CycleGAN
from .discogan import DiscoGAN
from .distancegan import DistanceGAN

RIVALS: dict[str, type[Rival]] = {"cyclegan": CycleGAN, "discogan": DiscoGAN, "distancegan": DistanceGAN}

__all__ = ["RIVALS", "CycleGAN", "DiscoGAN", "DistanceGAN", "Rival", "train_rival"]
