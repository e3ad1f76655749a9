"""Weights on their way to a GPU: compiled code brings a file's blocks into the kernels' planes and tiles.

`parts` says what becomes of which bytes of a weight, `blocks` and `kernels` do it. All of it runs on the host's threads
without the GIL, so that several parts are packed, sent and read from disk at the same time.
"""
