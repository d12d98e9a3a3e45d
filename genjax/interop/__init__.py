"""The state dicts of the well-known implementations onto our variables, and back.

One file a family, `load(config, spec, arrays) -> variables` and `dump(config, spec, variables) ->
arrays`; `arrays` maps their names to numpy arrays in their layouts.
"""
