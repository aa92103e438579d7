"""Training and measuring networks: the digits that come along, and folders of pictures."""
