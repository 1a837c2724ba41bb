"""Damages Core ML packages and looks at what the reference interpreter makes of them: ``make fuzz``."""
