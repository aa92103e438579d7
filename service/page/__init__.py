"""The page at `/`: a picture in, its classes and where the network looked out; plain files, nothing from elsewhere."""
