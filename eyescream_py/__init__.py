"""Face generators: a PyTorch port of the Lua Torch program of 2015, and four sibling systems."""
