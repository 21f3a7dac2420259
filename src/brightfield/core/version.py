"""The version of the code: in messages, in the manifest, in the User-Agent."""

__version__ = "0.1.0"
