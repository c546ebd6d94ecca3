"""Nothing is explained that is not the model: the cut towers are compared with the model's own function."""

from __future__ import annotations
