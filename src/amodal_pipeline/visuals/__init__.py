"""Pictures and the report: overlays, grids, plots. Import the module you need; none is loaded here.

matplotlib is imported by the functions that draw with it.
"""
