"""One encoder and decoder on crop and visible mask: the control for completers, and ViTA-Seg."""
