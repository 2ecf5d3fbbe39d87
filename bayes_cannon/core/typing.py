"""Shapes that the package speaks of, by one name each.

The axes are ``star`` (N), ``pixel`` (P), ``label`` (K), ``term`` (D, constant term included) and ``moment`` (the
distinct products of two terms). An alias names the axes in their order; all arrays are float64 unless said.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

Array = np.ndarray | jax.Array

StarLabel = Float[Array, "star label"]
CornerLabel = Float[Array, "corner label"]
StarLabelLabel = Float[Array, "star label other"]
StarPixel = Float[Array, "star pixel"]
PixelStar = Float[Array, "pixel star"]
StarTerm = Float[Array, "star term"]
StarMoment = Float[Array, "star moment"]
PixelTerm = Float[Array, "pixel term"]
PixelTermMask = Bool[Array, "pixel term"]
PixelTermTerm = Float[Array, "pixel term term"]
PixelTermRight = Float[Array, "pixel term right"]
TermTerm = Float[Array, "term term"]
TermTermPixels = Float[Array, "term term *pixel"]
PixelsTerm = Float[Array, "*pixel term"]
TermPixels = Float[Array, "term *pixel"]
PerPixel = Float[Array, " pixel"]
PerPixelMask = Bool[Array, " pixel"]
PerPixelInt = Int[Array, " pixel"]
PerStar = Float[Array, " star"]
PerStarInt = Int[Array, " star"]
PerTerm = Float[Array, " term"]
PerTermMask = Bool[Array, " term"]
PerLabel = Float[Array, " label"]
Scalar = Float[Array, ""] | float

Record = dict[str, Any]
"""What `CannonModel.train` reports of a pixel and `CannonModel.test` of a star."""
