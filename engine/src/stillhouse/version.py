"""The version, which every floor may ask for."""

__version__ = "0.1.0"
