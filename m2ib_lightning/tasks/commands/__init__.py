"""The subcommands of ``m2ib-fit``, one file per command; ``cli.COMMANDS`` lists them."""
