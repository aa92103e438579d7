"""The networks, their weights, preprocessing, training and compilation. Imports nothing of `service`."""
