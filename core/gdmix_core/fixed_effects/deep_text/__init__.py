"""The fixed effect `deep_text`: deep and wide networks over texts, numbers and categories (extra `tensorflow`).

Importing it does not import TensorFlow; fitting and scoring do.
"""

from gdmix_core.fixed_effects.deep_text.options import DeepTextOptions
from gdmix_core.fixed_effects.deep_text.plugin import DeepText

__all__ = ["DeepText", "DeepTextOptions"]
