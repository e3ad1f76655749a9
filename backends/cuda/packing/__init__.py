"""Weights on their way to a GPU: compiled code brings a file's blocks into the kernels' planes and tiles.

`pieces` describes which bytes of a weight go where, `blocks` and `kernels` move them. All of it runs on the host's
threads without the GIL, so that several pieces are packed, sent and read from disk at the same time.
"""
