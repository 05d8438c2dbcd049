"""Backbones by name: their files on the hub, and what is known of them without a download."""
