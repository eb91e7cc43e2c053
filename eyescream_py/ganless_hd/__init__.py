"""ganless-hd: photographs from contours and a 16x16 colour map, learned without a GAN.

Built from a functional description of the published program; none of its code or constants are
used. Run `python -m eyescream_py.ganless_hd --help`; docs/ganless_hd.md is the manual.
"""
