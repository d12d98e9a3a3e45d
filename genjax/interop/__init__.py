"""Conversion between the state dicts of well-known implementations and our variables.

Each family has a module with `load(config, spec, arrays) -> variables` and the inverse
`dump(config, spec, variables) -> arrays`. `arrays` maps the other implementation's names to NumPy
arrays in its layouts; those of a GAN begin with `G.` or `D.`, and its variables are a dict of
`generator` and `discriminator`, where D may be missing. `formats` has them all, with what infers a
model from the arrays. In this package "their" and "theirs" mean the other implementation's.
"""
