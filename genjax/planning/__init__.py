"""Planning: the memory, arithmetic and communication of a step, without running it."""
