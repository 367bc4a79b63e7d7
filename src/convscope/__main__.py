"""The command line as a process: `convscope` and `python -m convscope`."""

from convscope.training.interrupts import stops_in_time


def main() -> None:
    """Run the command line; a stop is honoured from here on, imports included."""
    with stops_in_time():
        from convscope.cli import main as run

        run()


if __name__ == "__main__":
    main()
