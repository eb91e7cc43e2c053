"""Names of the recipes' networks, for the command line too, which must not wait for torch."""

G_SMALL = ("conv", "deep")
D_SMALL = ("small", "deep", "residual")
