"""hotrow: train and serve recommendation models whose embedding tables outgrow fast memory."""

__version__ = "0.1.0"
