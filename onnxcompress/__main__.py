"""`python -m onnxcompress`: the command line without its script."""

from onnxcompress.cli.app import main

if __name__ == "__main__":
    main()
