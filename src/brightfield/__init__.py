"""Training data for neuron reconstruction, versioned and proven."""

__version__ = "0.1.0"
