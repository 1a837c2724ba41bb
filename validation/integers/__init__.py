"""The integers, scales and zero points that an artifact holds, beside those that it was made from.

Where sums of integers are rounded, a small fault in one of a hundred layers cannot be told from rounding at the
outputs. So each layer is read back from the file: a module here for each kind.
"""
