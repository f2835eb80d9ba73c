"""`python -m nimad`."""

from nimad.cli import main

if __name__ == "__main__":
    main()
