"""What a run is: its recipe, its folder, its checkpoints, and devices that share its steps."""
