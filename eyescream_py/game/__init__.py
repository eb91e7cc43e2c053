"""One step of D and one of G: losses, penalties, feeds, averaging, capture, precision, sharing."""
