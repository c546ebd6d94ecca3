"""Classes of image-text models that can't be explained, and why."""

from __future__ import annotations

from m2ib_lightning.encoder.families.family import refuse_family

NO_TOKENS = (
    "its image tower is a convolutional network, whose layers give feature maps of several sizes. The bottleneck needs "
    "a row of tokens of one width"
)
"""Why convolutional towers are refused."""

refuse_family("AlignModel", NO_TOKENS)
refuse_family(
    "GroupViTModel",
    "its image tower merges patches into groups between its stages: no cut keeps one token a patch",
)
refuse_family("XCLIPModel", "it embeds videos, not pictures")
refuse_family("BridgeTowerForContrastiveLearning", "its towers read each other, so that neither embeds alone")
refuse_family(
    "Blip2ForImageTextRetrieval",
    "its score is the largest of 32 cosines, one for each query: a picture has no single embedding",
)
refuse_family(
    "BlipForConditionalGeneration", "it writes captions. Load the weights of BlipForImageTextRetrieval, which compares"
)
