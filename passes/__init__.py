"""Graph and numbers: finding sites, tapping, spectra, plans and folding; runs nothing."""
