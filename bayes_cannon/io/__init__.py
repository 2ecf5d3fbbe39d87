"""Files: trained models, spectra, label tables and recipes. Nothing here is ever pickled or unpickled."""
