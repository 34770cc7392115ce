"""What a trajectory or a network tells: spectra, frequencies, periods, exponents."""
