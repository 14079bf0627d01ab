"""The networks: T (crn), E (encoder), evaluation classifiers (nin) and perceptual features (vgg)."""

from .crn import CRN, EarnedMapper, PaperMapper
from .encoder import ConvEncoder, init_dcgan
from .nin import NIN
from .table import CodeTable
from .vgg import VGGFeatures

__all__ = ["CRN", "NIN", "CodeTable", "ConvEncoder", "EarnedMapper", "PaperMapper", "VGGFeatures", "init_dcgan"]
