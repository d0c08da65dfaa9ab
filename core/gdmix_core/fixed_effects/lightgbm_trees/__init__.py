"""The built-in plug-in `lightgbm`: gradient-boosted trees as a fixed effect."""

from gdmix_core.fixed_effects.lightgbm_trees.plugin import LightgbmOptions, LightgbmTrees

__all__ = ["LightgbmOptions", "LightgbmTrees"]
