"""The native backbones."""
