"""What a trained network is good for: pictures, grids, films, quality."""
