"""`python -m harness`."""

import sys

if __name__ == "__main__":
    try:
        from harness.cli import main
    except KeyboardInterrupt:
        sys.exit(130)
    except ImportError as error:
        if sys.argv[1:] == ["doctor"]:  # it needs none of what cannot be imported
            from harness.doctor import report

            sys.exit(report())
        sys.exit(f"error: the install is broken ({error}); python -m harness doctor says what to do")
    try:
        main()
    except KeyboardInterrupt as stop:  # before a command was there to end
        sys.exit(stop.args[0] if stop.args else 130)
