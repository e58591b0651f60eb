"""The builder of image caches: container images on a Bottlerocket data volume, and a snapshot of it.

It knows nothing of sdctl, which passes in how AWS and the instance are reached.
"""
