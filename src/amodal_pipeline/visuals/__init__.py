"""Pictures, plots and the report. Import the module that you need: none is loaded here.

matplotlib is imported by the functions that draw with it.
"""
