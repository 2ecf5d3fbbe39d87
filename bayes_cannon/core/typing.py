"""Shapes that the package speaks of, by one name each.

The axes are ``star`` (N), ``pixel`` (P), ``label`` (K), ``term`` (D, constant term included), ``moment`` (the distinct
products of two terms), and of the profile solver ``node``, ``grid`` (values of s2) and ``strength``. An alias names the
axes in their order; ``*pixel`` stands for any number of axes, none of them for a single pixel under vmap. All arrays
are float64 unless said.
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
StarTerm = Float[Array, "star term"]
StarMoment = Float[Array, "star moment"]
PixelTerm = Float[Array, "pixel term"]
PixelTermMask = Bool[Array, "pixel term"]
PixelTermTerm = Float[Array, "pixel term term"]
PixelTermRight = Float[Array, "pixel term right"]
TermTerm = Float[Array, "term term"]
TermTermPixels = Float[Array, "term term *pixel"]
PixelsTerm = Float[Array, "*pixel term"]
PixelsStar = Float[Array, "*pixel star"]
PerPixels = Float[Array, "*pixel"]
PixelsMask = Bool[Array, "*pixel"]
PixelsInt = Int[Array, "*pixel"]
TermPixels = Float[Array, "term *pixel"]
TermPixel = Float[Array, "term pixel"]
MomentPixel = Float[Array, "moment pixel"]
NodePixel = Float[Array, "node pixel"]
NodeTermPixel = Float[Array, "node term pixel"]
NodeMomentPixel = Float[Array, "node moment pixel"]
GridPixel = Float[Array, "grid pixel"]
GridTermPixel = Float[Array, "grid term pixel"]
GridMomentPixel = Float[Array, "grid moment pixel"]
StrengthPixel = Float[Array, "strength pixel"]
TermTermInt = Int[Array, "term term"]
PerPixel = Float[Array, " pixel"]
PerPixelMask = Bool[Array, " pixel"]
PerStar = Float[Array, " star"]
PerStarInt = Int[Array, " star"]
PerTerm = Float[Array, " term"]
PerTermMask = Bool[Array, " term"]
PerLabel = Float[Array, " label"]
Scalar = Float[Array, ""] | float

Record = dict[str, Any]
"""What `CannonModel.train` reports of a pixel and `CannonModel.test` of a star."""
