"""``python -m neocog`` is the same as ``neocog``; torchrun starts its processes this way."""

from neocog.cli import main

if __name__ == "__main__":
    main()
