"""The typed configuration and its composition."""
