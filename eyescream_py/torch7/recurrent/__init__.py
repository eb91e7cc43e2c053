"""The layers of the package rnn, and of those like it."""
