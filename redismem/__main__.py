"""``python -m redismem`` is the command ``redismem``."""

from redismem.ops.cli import main

if __name__ == "__main__":
    main()
