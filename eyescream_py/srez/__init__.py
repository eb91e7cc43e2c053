"""srez: faces from 16x16 to 64x64 with adversarial networks, and the bench of its WGAN fork."""
