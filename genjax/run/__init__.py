"""What a run is: its recipe, folder, records and checkpoints, and its steps over devices."""
