"""sdctl: an asynchronous image-generation farm in your own AWS account, and on your laptop."""

__version__ = "0.1.0"
