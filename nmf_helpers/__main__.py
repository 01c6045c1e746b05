"""The command line: ``python -m nmf_helpers start`` opens the course, ``--help`` says the rest."""

from nmf_helpers.course.commands import main

if __name__ == "__main__":
    raise SystemExit(main())
