"""The HTTP/1.1 server in front of the model proxy: one protocol object per caller, nothing between it and the wire."""
