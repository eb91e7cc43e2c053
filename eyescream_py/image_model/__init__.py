"""Depth maps to faces: an unpaired image-to-image GAN with replay and a paired stage.

A new program written from a description of dvg13/image-model ("Deep Frankenstein", 2017); run it as
`python -m eyescream_py.image_model --help`. The guide is docs/image_model.md.
"""
