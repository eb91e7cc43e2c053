"""MLN: minimal linear networks for MR image reconstruction (Linial et al., Scientific Reports
2019).

A purely linear complex network learns, from generic images pushed through the simulated acquisition
of one scan protocol, to turn raw multi-coil non-Cartesian k-space samples into the image. Run it as
`python -m eyescream_py.mln`; paper: doi 10.1038/s41598-019-55763-x.
"""
