"""Visdom: windows, client, server and the scripts of its page."""
