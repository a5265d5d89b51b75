"""The `theworld` command: parse, call one function of the package, print."""
