"""The model as NumPyro programs: of one pixel (`pixel.pixel`), of whole spectra whose pixels share
latent factors (`spectrum.spectrum`) and of one star (`star.star`).

They are the statement of the model. Every fast path elsewhere is tested against their log density.
"""
