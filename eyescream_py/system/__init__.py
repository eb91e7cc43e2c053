"""Errors, files, processes, progress, places, device, signals: nothing about faces."""
