"""Weights and activations as integers: one program with its roundings written in, from which every target is converted.

calibration images → ranges → (function-preserving preparation) → grids → which layers → the program with roundings.
"""
