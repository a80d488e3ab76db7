"""Texts: words, letter trigrams and subwords as numbers, and word vectors. NumPy only, so a search needs no PyTorch."""
