"""Code that the commands in this folder share."""
