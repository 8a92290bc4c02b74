"""`python -m controller`."""

from controller.runner import main

if __name__ == "__main__":
    main()
