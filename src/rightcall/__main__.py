"""`python -m rightcall`: what `accelerate launch -m rightcall` starts."""

from rightcall.cli import main

main()
