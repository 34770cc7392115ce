"""Oscillators trained to frequencies, spectra and signals."""
