"""How many pods a load needs, simulated from what one pod was measured to do: `python -m loadtests.capacity`."""
